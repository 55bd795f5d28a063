"""docs/SCALING.md's "Try it on one machine" is run as it stands, except for the ports and the interface."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import TWISTD, Server, free_port, run, until
from tests.integration.document import document

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

#: What a user's shell finds.
PATH = {"PATH": f"{Path(TWISTD).parent}:/usr/local/bin:/usr/bin:/bin"}


class Section:
    """The section's blocks, with ports of our own: what serves, and what is asked after a `$`, with the answer."""

    def __init__(self) -> None:
        text = document("SCALING.md").partition("\n## Try it on one machine\n")[2].partition("\n## ")[0]
        one, two, store = free_port(), free_port(), free_port()
        for written, meant in (
            ("127.0.0.1:9090", f"127.0.0.1:{store}"),
            ("receiver &", f"receiver --web.listen-address=127.0.0.1:{store} &"),
            ("tcp:$port", "tcp:$port:interface=127.0.0.1"),
            ("5001", str(one)),
            ("5002", str(two)),
        ):
            assert written in text
            text = text.replace(written, meant)
        self.ports = (one, two)
        self.serve, talk = (re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?m)(?:^    .*\n)+", text))
        self.talk = re.findall(r"^\$ (.*)\n(.*)$", talk, re.MULTILINE)


@pytest.fixture
def section(tmp_path: Path) -> Iterator[tuple[Section, Server]]:
    """The section, and what its first commands have started; all of that ends with it."""
    given = Section()
    server = Server(("sh", "-c", f"{given.serve}wait"), tmp_path / "shell", PATH)
    try:
        yield given, server
    finally:
        server.close()


def test_side_by_side(section: tuple[Section, Server]) -> None:
    """Two orchestrators with one Prometheus as their store: a report to one is visible in both."""
    given, server = section
    server.said("Server is ready")
    for port in given.ports:
        server.said(rf"serves on 127\.0\.0\.1:{port}; reports are delivered to http://\S+/api/v1/write; queries go to")
    for command, answer in given.talk:

        def answered(command: str = command, answer: str = answer) -> bool:
            said = run("sh", "-c", command, env=PATH).stdout
            return said.startswith("{") and json.loads(said) == json.loads(answer)

        until(answered, f"{answer} from {command}: {server.output()}")
    assert len(given.talk) == 2

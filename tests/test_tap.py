"""`twistd orchestrator`: its command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestratord import __version__
from orchestratord.config.options import GROUPS, TABLES
from orchestratord.runtime.signals import Signals
from orchestratord.tap import Options, makeService

if TYPE_CHECKING:
    from pathlib import Path


def parsed(*arguments: str) -> Options:
    """Return the options of a command line."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_flags_become_settings() -> None:
    """Repeatable ones add up; a flag needs no value."""
    settings = parsed("--listen", "tcp:1", "--listen=tcp:2", "--stale-after", "9", "--access-log").settings
    assert settings is not None
    assert settings.listen == ("tcp:1", "tcp:2")
    assert settings.stale_after == 9
    assert settings.access_log


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--stale-after", "soon"], "twistd orchestrator: --stale-after: 'soon' must be a number of seconds"),
        (["--bogus"], "twistd orchestrator: option --bogus not recognized"),
        (
            ["--tls-key=k"],
            "twistd orchestrator: --tls-key is now the key key_file of the table [tls] in the --config file, or ORCH",
        ),
        (["--lisen", "tcp:1"], "twistd orchestrator: option --lisen not recognized; did you mean --listen?"),
        (["--max-nodes"], "twistd orchestrator: option --max-nodes requires argument"),
        (["extra"], "twistd orchestrator: 'extra' is not an option: options begin with --"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(arguments: list[str], line: str) -> None:
    """SystemExit with a text: twistd prints it and exits with 1, before any socket opens."""
    with pytest.raises(SystemExit) as raised:
        parsed(*arguments)
    assert str(raised.value.code).startswith(line)
    assert "\n" not in str(raised.value.code)


def test_help_names_every_option_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Once each, in words, under a heading; keys of tables are not flags."""
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    for heading, options in GROUPS.items():
        assert f" {heading}: " in text
        for option in options:
            assert text.count(f" --{option.name}{'' if option.is_switch else '='} ") == 1
            assert " ".join(option.help.split()[:3]) in text
    for option in TABLES:
        assert f"--{option.name}" not in text
    assert "[default: tcp:5000]" in text
    assert "[default: 150000]" in text


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """Not Twisted's."""
    with pytest.raises(SystemExit):
        parsed("--version")
    assert capsys.readouterr().out == f"orchestratord {__version__}\n"


def test_the_service_is_made_and_opens_nothing(tmp_path: Path) -> None:
    """Not even for an embedded Prometheus, whose folder is there."""
    options = parsed("--prometheus", "embedded", "--data-dir", str(tmp_path))
    service = makeService(options)
    assert any(isinstance(child, Signals) for child in service)  # type: ignore[attr-defined]  # MultiService
    assert (tmp_path / "prometheus").is_dir()


def test_an_embedded_prometheus_that_is_not_there_ends_in_one_line() -> None:
    """It names Debian's package."""
    options = parsed("--prometheus", "embedded", "--prometheus-binary", "no-such-prometheus")
    with pytest.raises(
        SystemExit, match=r"'no-such-prometheus', which is not there: install Debian's package prometheus"
    ):
        makeService(options)


def test_a_data_dir_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    """It names the folder, and the reason."""
    (tmp_path / "file").touch()
    options = parsed("--prometheus", "embedded", "--data-dir", str(tmp_path / "file" / "below"))
    with pytest.raises(SystemExit, match="--data-dir: '.*below' cannot be written: Not a directory"):
        makeService(options)

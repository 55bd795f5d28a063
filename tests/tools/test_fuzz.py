"""The fuzz targets: they find what they are for, and nothing in the corpus ends them any more."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from orchestratord.errors import BadReport, Fault
from orchestratord.promql.selection import select
from tests.fakes import decoder
from tests.fuzz import connection, express, node_tokens, promql, query, report, spool
from tests.fuzz.__main__ import CORPUS, MAX_LENGTH, TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from orchestratord.nodes.report_decoder import Decoded

SEEDS = [path for target in TARGETS for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.parametrize("path", SEEDS, ids=[f"{path.parent.name}-{path.name}" for path in SEEDS])
def test_nothing_in_the_corpus_ends_its_target(path: Path) -> None:
    """What once did is in the corpus, too."""
    data = path.read_bytes()
    assert len(data) <= MAX_LENGTH
    importlib.import_module(f"tests.fuzz.{path.parent.name}").check(data)


def test_no_bytes_at_all() -> None:
    """As libFuzzer begins."""
    for target in (connection, express, node_tokens, promql, query, report, spool):
        target.check(b"")


class OursFault(Fault):
    """One that blames us."""

    status = 500


class Planted:
    """A decoder with a bug: it raises an exception, or decodes something else."""

    def __init__(self, bug: Exception | bytes) -> None:
        self._bug = bug

    def decode(self, body: bytes, received_at: float) -> Decoded:
        """Decode wrongly, whatever the body."""
        del body
        if isinstance(self._bug, Exception):
            raise self._bug
        return decoder().decode(self._bug, received_at)


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("a bug"),
        OursFault("a bug"),
        BadReport("no path"),
        b"[]",
        b'{"node_id":"n","page_faults":8}',
        b'{"node_id":"m","page_faults":7}',
        b'{"node_id":"n","page_faults":7,"timestamp":1}',
    ],
)
def test_the_report_target_finds_a_bug(bug: Exception | bytes) -> None:
    """Any exception, a fault of ours, one without a path, a lost report, another value, node, time."""
    right = b'{"node_id":"n","page_faults":7}'
    report.check(b"p" + right, Planted(right))
    with pytest.raises((ValueError, AssertionError)):
        report.check(b"p" + right, Planted(bug))


def test_the_express_target_tells_what_is_seen() -> None:
    """The answers, what is stored, what is counted: a way that differed in one of them would be found."""
    one = (CORPUS / "express" / "report").read_bytes()[1:]
    other = one.replace(b'"page_faults":1', b'"page_faults":2')
    assert express.seen([one], twisted=False) != express.seen([other], twisted=True)
    assert express.seen([one], twisted=False) != express.seen([one + one], twisted=True)
    assert express.seen([one], twisted=False) != express.seen([one[:-1]], twisted=True)


@pytest.mark.parametrize(
    "data", [b'qpage_faults{node_id="n1"}', b"qpage_faults{node_id!~'n1|n3'}", b"rn1", b"rn.*1", b"rn1|n3"]
)
def test_the_promql_target_finds_a_bug(data: bytes) -> None:
    """A selection of other nodes than the text says."""
    promql.check(data)
    with pytest.raises(AssertionError):
        promql.check(data, lambda text, indexes: select(text.replace("n1", "n2").replace("n.*1", "n.*"), indexes))

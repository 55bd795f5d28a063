"""Any body, plain or gzip: valid reports come out, or a Fault that blames the client, and nothing else.

The first byte says how the rest is to be read: plain, packed here, or as what is packed already.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from orchestratord.errors import BadReport, Fault
from orchestratord.nodes.batch import split
from orchestratord.nodes.exposition import NODE_INFO, REPORT_DELAY, report_delay
from orchestratord.nodes.families import LAST_REPORT
from orchestratord.nodes.gunzip import MAX_MEMBERS, SLACK, STEP_IN, STEP_OUT, gunzip_in_steps
from orchestratord.nodes.report import MAX_AHEAD
from orchestratord.nodes.report_decoder import is_batch
from tests import fakes
from tests.fakes import FAMILIES, NOW

if TYPE_CHECKING:
    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.report_decoder import Decoded

#: Bytes of an unpacked body.
LIMIT = 65_536
_DECODER = fakes.decoder(max_batch=300)
_DECODE: Any = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Decoder(Protocol):
    """What is fuzzed."""

    def decode(self, body: bytes, received_at: float) -> Decoded:
        """Do as ReportDecoder does."""
        ...


def check(data: bytes, decoder: Decoder = _DECODER) -> None:
    """Fail unless the body is answered as the contract has it."""
    way, rest = data[:1], data[1:]
    try:
        packed = rest if way == b"z" else gzip.compress(rest, 1) if way == b"g" else None
        body = rest if packed is None else _unpacked(packed)
        _splits_the_same(body)
        reports = decoder.decode(body, NOW).reports
    except Fault as fault:
        assert 400 <= fault.status < 500
        assert str(fault).isprintable()
        assert len(str(fault)) < 500
        if isinstance(fault, BadReport):
            assert re.search(r" - at \$(\[\d+\])?(\.\w+)?\Z", str(fault)), str(fault)
        return
    _reads_the_same(body, reports)
    for report in reports:
        _is_valid(report)


def _unpacked(packed: bytes) -> bytes:
    """Return what is in a packed body: in bounded steps, and no more of them than there is to take, or to give."""
    parts: list[bytes] = []
    most = len(packed) // (STEP_IN // 2) + LIMIT // STEP_OUT + MAX_MEMBERS + 2
    for part in gunzip_in_steps(packed, LIMIT):
        parts.append(part)
        assert len(part) <= STEP_OUT
        assert len(parts) <= most
    body = b"".join(parts)
    assert len(body) <= LIMIT
    assert len(packed) <= len(body) + SLACK + STEP_IN
    return body


def _splits_the_same(body: bytes) -> None:
    """However small the windows are, a batch has the items, or the error, that a parser finds which reads all of it."""
    if not is_batch(body):
        return
    found: list[list[bytes] | str] = []
    for reads in (_DECODE, lambda text: [item for part in split(text, LIMIT, window=40) for item in part]):
        try:
            found.append([bytes(item) for item in reads(body)])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            found.append(str(error))
    assert found[0] == found[1], found


def _reads_the_same(body: bytes, reports: list[NodeReport]) -> None:
    """Python's own JSON parser finds the same in it."""
    sent: Any = json.loads(body)
    for one, report in zip(sent if isinstance(sent, list) else [sent], reports, strict=True):
        assert report.node_id == one["node_id"]
        assert report.values == tuple(one.get(name) for name in FAMILIES)
        assert report.timestamp == one.get("timestamp")


def _is_valid(report: NodeReport) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", report.node_id, re.ASCII)
    assert all(value is None or 0 <= value < 2**64 for value in report.values)
    assert report.timestamp is None or 0 <= report.timestamp <= NOW + MAX_AHEAD
    delay = None if report.timestamp is None else report_delay(NOW, report.timestamp)
    info = None if report.provenance is None else 1
    names = (*FAMILIES, LAST_REPORT, REPORT_DELAY, NODE_INFO)
    expected = dict(zip(names, (*report.values, NOW, delay, info), strict=True))
    samples = [
        sample
        for family in text_string_to_metric_families(b"".join(report.lines).decode())
        for sample in family.samples
    ]
    assert {sample.name: float(sample.value) for sample in samples} == {
        name: float(value) for name, value in expected.items() if value is not None
    }
    assert all(sample.labels["node_id"] == report.node_id for sample in samples)
    assert all(len(sample.labels) == (4 if sample.name == NODE_INFO else 1) for sample in samples)

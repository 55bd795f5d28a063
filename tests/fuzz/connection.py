"""Any bytes on a connection, whoever may report and whatever carries them: all ways of reading them agree.

The first byte says who may report (open, a token of a file, a token bound to a node) and the second how long the
packets, and the records of TLS, are. `%T` stands for the good token.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from orchestratord.security.gate import Gate, Role
from orchestratord.security.jwt import NodeTokenVerifier, parse_keys
from tests.certificates import Authority
from tests.fuzz import express
from tests.tokens import AUDIENCE, ISSUER, claims, jwk, key_set, signed
from tests.web.tls_client import TlsClient
from tests.wire import Wire

NOW = 1_800_000_000.0
_TOKEN = b"report-token-0123456789"


@functools.cache
def _authority() -> Authority:
    authority = Authority(Path(tempfile.mkdtemp()))
    authority.issue("server", "localhost")
    return authority


@functools.cache
def _bound_token() -> bytes:
    return signed(claims("n1", now=NOW)).encode()


def _gate(who: int) -> tuple[Gate, bytes]:
    """Return who may report, and what their token is."""
    if who == 0:
        return Gate({}), b""
    if who == 1:
        return Gate({Role.REPORT: [_TOKEN], Role.QUERY: [_TOKEN], Role.ADMIN: [_TOKEN]}), _TOKEN
    verifying = NodeTokenVerifier(ISSUER, AUDIENCE, time=lambda: NOW, max_remembered=100)
    verifying.use(parse_keys(key_set(jwk("k1"))))
    return Gate({Role.REPORT: [_TOKEN]}, verifying), _bound_token()


def check(data: bytes) -> None:
    """Fail unless both ways, in clear and in TLS, answer the same and leave the same behind."""
    who, size, data = (data[0] % 3 if data else 0), (data[1] if len(data) > 1 else 0), data[2:]
    _, token = _gate(who)
    data = data.replace(b"%T", token)
    parts = [data[at : at + size] for at in range(0, len(data), size)] if size else [data]
    express.forget_failures()
    ways = [seen(who, parts, twisted=twisted, tls=tls) for twisted in (False, True) for tls in (False, True)]
    assert ways[0] == ways[2]
    assert ways[1] == ways[3]
    assert ways[0] == ways[1] or b"https" in data.lower()  # which is answered in TLS alone
    express.check_failures()


def seen(who: int, parts: list[bytes], *, twisted: bool, tls: bool) -> list[Any]:
    """Return all that can be seen of these parts: packets, or records of one segment."""
    wire = Wire(gate=_gate(who)[0])
    if twisted:
        wire.site.context.fast_path = None
    connection: Any
    if tls:
        connection = TlsClient(wire, _authority())
        if data := [part for part in parts if part]:
            connection.send(*data)
    else:
        connection = wire.connect()
        for part in parts:
            connection.send(part)
    wire.clock.pump([0] * 20)
    early = express.answered(connection.answers())
    wire.clock.advance(31)  # what has not arrived by now is given up
    late = express.answered(connection.answers())
    stored = [(entry.report.node_id, entry.report.values) for entry in wire.nodes.snapshot(wire.clocks.monotonic())]
    outcomes = ("accepted", "superseded", "invalid", "too_large", "unsupported", "unauthorized", "forbidden", "failed")
    return [early, late, connection.closed, stored, [wire.counted(one) for one in outcomes]]

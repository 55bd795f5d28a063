"""Twisted's private state that the server relies on: a Twisted that has changed it fails here, with its name."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.protocols.tls import BufferingTLSTransport
from twisted.web import http_headers
from twisted.web.http import HTTPChannel, _ChunkedTransferDecoder
from twisted.web.server import Request, Site

from orchestratord.web.server.channel import BoundedChannel
from orchestratord.web.server.request import BoundedRequest
from orchestratord.web.server.site import OrchestratorSite
from orchestratord.web.server.tls_transport import TlsTransport
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Our class, Twisted's above it, and what ours uses or replaces of its private names: each has its reason there.
RELIED_ON: list[tuple[type, type, set[str]]] = [
    (
        BoundedChannel,
        HTTPChannel,
        {
            "_buffer",
            "_busyReceiving",
            "_command",
            "_dataBuffer",
            "_finishRequestBody",
            "_handlingRequest",
            "_networkProducer",
            "_optimisticEagerReadSize",
            "_path",
            "_receivedHeaderCount",
            "_receivedHeaderSize",
            "_respondToBadRequestAndDisconnect",
            "_send100Continue",
            "_transferDecoder",
            "_version",
        },
    ),
    (BoundedRequest, Request, {"_disconnected"}),
    (OrchestratorSite, Site, set()),
    (
        TlsTransport,
        BufferingTLSTransport,
        {
            "_flushReceiveBIO",
            "_flushSendBIO",
            "_handshakeDone",
            "_lostTLSConnection",
            "_shutdownTLS",
            "_tlsConnection",
            "_tlsShutdownFinished",
        },
    ),
]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def private_names(*classes: type) -> set[str]:
    """Return the private names that classes define or use as attributes."""
    found: set[str] = set()
    for one in classes:
        for name, member in vars(one).items():
            found.add(name)
            function: Any = member.fget if isinstance(member, property) else member
            if isinstance(function, FunctionType):
                found |= set(_names(function.__code__)) - function.__globals__.keys()
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


@pytest.mark.parametrize(("ours", "twisted", "names"), RELIED_ON, ids=lambda value: getattr(value, "__name__", ""))
def test_a_class_shares_these_private_names_with_twisteds(ours: type, twisted: type, names: set[str]) -> None:
    """No fewer: Twisted still has each. No more: none of ours has come to hide one of Twisted's."""
    above = ours.__mro__.index(twisted)
    own, inherited = ours.__mro__[:above], ours.__mro__[above:-1]
    shared = private_names(*own) & private_names(*inherited)
    assert names - shared == set(), "this Twisted has them no more, or our class uses them no more"
    assert shared - names == set(), "this Twisted has them too: is that meant?"


def test_a_connection_says_what_it_has_not_sent() -> None:
    """By the names under which channel and slow_readers look for it."""
    descriptor = FileDescriptor(reactor=Wire().clock)  # type: ignore[arg-type]  # it writes nothing
    assert (descriptor.dataBuffer, descriptor.offset) == (b"", 0)
    assert (descriptor._tempDataBuffer, descriptor._tempDataLen) == ([], 0)
    assert "_appSendBuffer" in private_names(*BufferingTLSTransport.__mro__[:-1])


def test_a_chunked_body_has_a_limit_for_its_trailers() -> None:
    """By the name under which reading_channel sets it."""
    decoder = _ChunkedTransferDecoder(lambda _: None, lambda _: None)
    assert decoder._maxTrailerHeadersSize > 0


def test_the_names_of_headers_are_remembered_in_a_dict() -> None:
    """By the name under which header_names replaces it."""
    assert isinstance(http_headers._nameEncoder._canonicalHeaderCache, dict)

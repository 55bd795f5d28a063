"""Looks host names up on threads of their own.

Twisted looks names up on the reactor's thread pool, which also makes the listings of nodes. Ten lookups that hang would
stop those, and delay the end of the process. Here each name has at most one thread, however many wait for it.
"""

from __future__ import annotations

import socket
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from zope.interface import implementer

from orchestratord.runtime.single_flight import Flight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress, IResolutionReceiver

#: Seconds that a caller waits for a name. The lookup itself goes on; its answer is for those who ask meanwhile.
LOOKUP_SECONDS = 2.0

_KINDS = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}

Found = list[tuple[Any, Any, int, str, Any]]


@implementer(IHostnameResolver)
class Resolver:
    """Looks host names up with `getaddrinfo`, each on a thread of its own, once for all who wait for the same name.

    A name that is not found within `seconds` counts as one that does not exist. Belongs to the reactor thread.
    """

    def __init__(
        self, reactor: Any, *, getaddrinfo: Callable[..., Found] = socket.getaddrinfo, seconds: float = LOOKUP_SECONDS
    ) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._seconds = seconds
        self._flights: dict[tuple[str, int], Flight[Found]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Tell the receiver the addresses: of a literal address at once, of a name within the deadline."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        tell = partial(_tell, resolutionReceiver, addressTypes, transportSemantics)
        if isIPAddress(hostName) or isIPv6Address(hostName):
            tell(self._getaddrinfo(hostName, portNumber, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST))
            return resolution
        flight = self._flights.get((hostName, portNumber)) or self._begin(hostName, portNumber)
        found = flight.join().addTimeout(self._seconds, self._reactor)
        found.addErrback(lambda _: []).addCallback(tell)
        return resolution

    def _begin(self, name: str, port: int) -> Flight[Found]:
        found: Deferred[Found] = Deferred()
        flight = self._flights[name, port] = Flight(found, cancel=False)
        # A daemon thread: the end of the process does not wait for it, however long the lookup hangs.
        Thread(target=self._look_up, args=(name, port, found), name=f"lookup of {name[:40]!a}", daemon=True).start()
        return flight

    def _look_up(self, name: str, port: int, found: Deferred[Found]) -> None:
        """Look a name up, off the reactor thread."""
        try:
            addresses = self._getaddrinfo(name, port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            addresses = []
        self._reactor.callFromThread(self._looked_up, name, port, found, addresses)

    def _looked_up(self, name: str, port: int, found: Deferred[Found], addresses: Found) -> None:
        del self._flights[name, port]
        found.callback(addresses)


def _tell(receiver: IResolutionReceiver, kinds: Sequence[type[IAddress]] | None, semantics: str, found: Found) -> None:
    """Give a receiver the addresses of the kinds that it asked for."""
    for family, _, _, _, address in found:
        kind = _KINDS.get(family)
        if kind is not None and (kinds is None or kind in kinds):
            receiver.addressResolved(kind(semantics, *address))
    receiver.resolutionComplete()


@implementer(IHostResolution)
class _Resolution:
    """A lookup under way, of `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Refuse: a lookup on a thread cannot be cancelled."""
        raise NotImplementedError


class ResolverService(Service):
    """Makes the reactor look names up with a Resolver while it runs."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._before: Any = None

    def startService(self) -> None:
        """Install the Resolver."""
        super().startService()
        self._before = self._reactor.installNameResolver(Resolver(self._reactor))

    def stopService(self) -> None:
        """Install the resolver that was there before."""
        super().stopService()
        self._reactor.installNameResolver(self._before)

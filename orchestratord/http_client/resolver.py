"""Host names to addresses, on threads that nothing else needs.

Twisted looks names up on the reactor's thread pool, where listings are made too: ten lookups that hang would stop
those, and hold up the end of the process. Here a name has one thread at the most, however many wait for it.
"""

from __future__ import annotations

import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet._resolver import HostResolution
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from twisted.logger import Logger
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver

log = Logger()

#: Seconds for which anybody waits for a name; the lookup itself goes on, and its answer serves whoever waits by then.
LOOKUP_SECONDS = 2.0

_KINDS = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}

Found = list[tuple[Any, Any, int, str, Any]]


@implementer(IHostnameResolver)
class Resolver:
    """Looks host names up with `getaddrinfo`, each on a thread of its own, once for all that wait for the same.

    A name that is not there within `seconds` counts as one that does not exist. Belongs to the reactor thread.
    """

    def __init__(
        self, reactor: Any, *, getaddrinfo: Callable[..., Found] = socket.getaddrinfo, seconds: float = LOOKUP_SECONDS
    ) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._seconds = seconds
        self._under_way: dict[tuple[str, int], list[_Waiter]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Resolve as any IHostnameResolver does: an address at once, a name within the deadline."""
        waiter = _Waiter(resolutionReceiver, addressTypes, transportSemantics)
        resolution: IHostResolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if isIPAddress(hostName) or isIPv6Address(hostName):
            waiter.end(self._getaddrinfo(hostName, portNumber, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST))
            return resolution
        waiter.deadline = self._reactor.callLater(self._seconds, waiter.end, [])
        key = (hostName, portNumber)
        if key in self._under_way:
            self._under_way[key].append(waiter)
        else:
            self._under_way[key] = [waiter]
            # Nobody waits for it at the process' end, however long it hangs.
            Thread(target=self._look_up, args=key, name=f"lookup of {hostName[:40]!a}", daemon=True).start()
        return resolution

    def _look_up(self, name: str, port: int) -> None:
        """Look a name up, off the reactor thread."""
        try:
            found = self._getaddrinfo(name, port, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        self._reactor.callFromThread(self._looked_up, (name, port), found)

    def _looked_up(self, key: tuple[str, int], found: Found) -> None:
        for waiter in self._under_way.pop(key):
            waiter.end(found)


class _Waiter:
    """One who waits for a name's addresses."""

    deadline: Any = None
    _over = False

    def __init__(self, receiver: IResolutionReceiver, kinds: Sequence[type[IAddress]] | None, semantics: str) -> None:
        self._receiver = receiver
        self._kinds = kinds
        self._semantics = semantics

    def end(self, found: Found) -> None:
        """Tell what was found, if it is not too late for that."""
        if self._over:
            return
        self._over = True
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
        for family, _, _, _, address in found:
            kind = _KINDS.get(family)
            if kind is not None and (self._kinds is None or kind in self._kinds):
                self._receiver.addressResolved(kind(self._semantics, *address))
        self._receiver.resolutionComplete()


class ResolverService(Service):
    """Has the reactor look names up with Names while it runs."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._before: Any = None

    def startService(self) -> None:
        """Take the lookups over."""
        super().startService()
        self._before = self._reactor.installNameResolver(Resolver(self._reactor))

    def stopService(self) -> None:
        """Give them back."""
        super().stopService()
        self._reactor.installNameResolver(self._before)

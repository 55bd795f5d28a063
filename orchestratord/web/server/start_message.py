"""The start log's lines about the ports: the address of the pages, and what others reach without a token. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: Addresses that stand for every interface, and how this machine reaches them.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


class Place(NamedTuple):
    """The address of a listener as Twisted has it, and whether the listener serves TLS."""

    host: Any
    tls: bool

    @property
    def is_tcp(self) -> bool:
        """Whether it has a host and a port, unlike a UNIX socket."""
        return getattr(self.host, "type", None) == "TCP"

    @property
    def is_reached_by_others(self) -> bool:
        """Whether another machine may connect."""
        return self.is_tcp and not ip_address(self.host.host.partition("%")[0]).is_loopback

    def __str__(self) -> str:
        """As in a URL."""
        return f"[{self.host.host}]:{self.host.port}" if ":" in self.host.host else f"{self.host.host}:{self.host.port}"


def page_address(places: Sequence[Place]) -> str | None:
    """Return the URL of the pages for a browser on this machine, preferably without TLS; None without a TCP port."""
    for place in sorted((place for place in places if place.is_tcp), key=lambda place: place.tls):
        name = _WILDCARDS.get(place.host.host, place.host.host)
        shown = f"[{name}]" if ":" in name else name
        return f"{'https' if place.tls else 'http'}://{shown}:{place.host.port}/"
    return None


def exposure(places: Sequence[Place], admin: Sequence[Place], open_roles: Collection[str], mutual: bool) -> str | None:
    """Return a warning if other machines can use a role without a token, and how to prevent it; None if they cannot.

    `admin` are the listeners of `--admin-listen`; if there are any, only they serve the role `admin`. `mutual`: TLS
    listeners require a client certificate.
    """
    main = [role for role in open_roles if not (admin and role == "admin")]
    said: list[str] = []
    for listeners, roles in ((places, main), (admin, [role for role in open_roles if role == "admin"])):
        reached = [place for place in listeners if place.is_reached_by_others and not (place.tls and mutual)]
        if reached and roles:
            said.append(
                f"anyone who can connect to {', '.join(map(str, reached))} needs no token for {', '.join(roles)}"
            )
    if not said:
        return None
    return (
        f"{'; '.join(said)}. To close it: --token-file ROLE=PATH for each role,"
        " or a listener for this machine alone (tcp:PORT:interface=127.0.0.1)"
    )

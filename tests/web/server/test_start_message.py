"""What the start log says of the ports."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from orchestratord.web.server.start_message import Place, exposure, page_address

EVERY = ("report", "query", "scrape", "admin")


def place(host: str, port: int = 5000, *, tls: bool = False) -> Place:
    """Return a TCP listener."""
    return Place((IPv6Address if ":" in host else IPv4Address)("TCP", host, port), tls)


SOCKET = Place(UNIXAddress("/run/orchestrator.sock"), False)


@pytest.mark.parametrize(
    ("places", "url"),
    [
        ([place("0.0.0.0")], "http://127.0.0.1:5000/"),
        ([place("::")], "http://[::1]:5000/"),
        ([place("10.1.2.3", 80)], "http://10.1.2.3:80/"),
        ([place("fd00::1")], "http://[fd00::1]:5000/"),
        ([place("0.0.0.0", 5443, tls=True)], "https://127.0.0.1:5443/"),
        ([place("0.0.0.0", 5443, tls=True), place("127.0.0.1")], "http://127.0.0.1:5000/"),
        ([SOCKET], None),
        ([SOCKET, place("127.0.0.1")], "http://127.0.0.1:5000/"),
        ([], None),
    ],
)
def test_the_page_has_an_address_to_click(places: list[Place], url: str | None) -> None:
    """What every interface stands for is this machine; no TLS goes before TLS; a UNIX socket has no address."""
    assert page_address(places) == url


@pytest.mark.parametrize("closed", [place("127.0.0.1"), place("127.9.9.9"), place("::1"), SOCKET])
def test_what_others_cannot_reach_needs_no_warning(closed: Place) -> None:
    """Loopback and UNIX sockets."""
    assert exposure([closed], [closed], EVERY, mutual=False) is None


def test_a_port_that_others_reach_is_warned_of_once() -> None:
    """With the ports, the roles, and both ways to close it."""
    warning = exposure([place("0.0.0.0"), place("fe80::1%eth0", 80), place("::1")], [], EVERY, mutual=False)
    assert warning == (
        "anyone who can connect to 0.0.0.0:5000, [fe80::1%eth0]:80 needs no token for report, query, scrape, admin."
        " To close it: --token-file ROLE=PATH for each role,"
        " or a listener for this machine alone (tcp:PORT:interface=127.0.0.1)"
    )


def test_only_what_is_open_is_named() -> None:
    """Not a role with tokens, nor TLS listeners that ask for a client certificate."""
    public = place("0.0.0.0")
    warning = exposure([public], [], ["query"], mutual=False)
    assert warning is not None
    assert warning.startswith("anyone who can connect to 0.0.0.0:5000 needs no token for query. ")
    assert exposure([public], [], [], mutual=False) is None
    assert exposure([place("0.0.0.0", tls=True)], [], EVERY, mutual=True) is None
    assert exposure([place("0.0.0.0", tls=True)], [], EVERY, mutual=False) is not None


def test_administration_is_where_it_is() -> None:
    """With listeners for it, the role `admin` is theirs alone."""
    warning = exposure([place("0.0.0.0")], [place("10.0.0.1", 5001)], ["query", "admin"], mutual=False)
    assert warning is not None
    assert warning.startswith(
        "anyone who can connect to 0.0.0.0:5000 needs no token for query;"
        " anyone who can connect to 10.0.0.1:5001 needs no token for admin. "
    )
    assert exposure([place("0.0.0.0")], [place("127.0.0.1", 5001)], ["admin"], mutual=False) is None

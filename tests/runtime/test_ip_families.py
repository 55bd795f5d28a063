"""IPv4 and IPv6: which ports serve both, and what is opened where a machine has only one."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import CannotListenError

from orchestratord.runtime.ip_families import is_for_all, joined, open_for_all, plain, port_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    ("description", "wanted"),
    [
        ("tcp:5000", True),
        ("tcp:port=5000", True),
        ("tcp:5000:backlog=9", True),
        ("tcp:5000:interface=127.0.0.1", False),
        (r"tcp:5000:interface=\:\:1", False),
        ("tcp:5000:127.0.0.1", False),
        ("tcp6:5000", False),
        ("unix:/run/socket", False),
        ("tcp:5000:interface=", False),
    ],
)
def test_what_names_no_interface_is_for_all_addresses(description: str, *, wanted: bool) -> None:
    """Whatever else it says; anything else stays as it was given."""
    assert is_for_all(description) is wanted


class Port:
    """An open one, by its address."""

    def __init__(self, host: str, port: int) -> None:
        self.host = IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)
        self.closed = False

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return its address."""
        return self.host

    def stopListening(self) -> None:
        """Remember."""
        self.closed = True


class Machine:
    """What opens IPv4 ports and takes IPv6 sockets, or refuses, with these errors in order (0: none)."""

    def __init__(self, four: Sequence[int] = (), six: Sequence[int] = ()) -> None:
        self._four, self._six = list(four), list(six)
        self.opened: list[Port] = []

    def open(self, port: int) -> list[Port]:
        """Open a port for all."""
        return open_for_all(lambda: self._open_four(port), self._open_six, port, 9)

    def _open_four(self, port: int) -> Port:
        if self._four and (number := self._four.pop(0)):
            raise CannotListenError("", port, OSError(number, "no"))
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self.opened.append(Port("0.0.0.0", port))
        return self.opened[-1]

    def _open_six(self, six: socket.socket) -> Port:
        if self._six and (number := self._six.pop(0)):
            raise OSError(number, "no")
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert not six.getblocking()
        self.opened.append(Port(*six.getsockname()[:2]))
        return self.opened[-1]


def test_both_on_the_same_port() -> None:
    """The kernel's choice, too."""
    four, six = Machine().open(0)
    assert (four.getHost().host, six.getHost().host) == ("0.0.0.0", "::")
    assert four.getHost().port == six.getHost().port > 0


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_with_one_of_them(number: int) -> None:
    """It serves that."""
    assert [port.getHost().host for port in Machine(six=[number]).open(0)] == ["0.0.0.0"]
    assert [port.getHost().host for port in Machine(four=[number]).open(0)] == ["::"]


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EACCES])
def test_a_port_that_is_taken_is_an_error(number: int) -> None:
    """Half a service would be found out late."""
    with pytest.raises(CannotListenError):
        Machine(four=[number]).open(0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine = Machine(six=[number])
    with pytest.raises(CannotListenError):
        machine.open(port)
    assert [port.closed for port in machine.opened] == [True]


def test_another_port_is_tried_where_the_kernel_chooses() -> None:
    """Its choice for IPv4 may be taken for IPv6; not for ever."""
    machine = Machine(six=[errno.EADDRINUSE, errno.EADDRINUSE, 0])
    four, six = machine.open(0)
    assert four.getHost().port == six.getHost().port
    assert [port.closed for port in machine.opened] == [True, True, False, False]
    with pytest.raises(CannotListenError):
        Machine(six=[errno.EADDRINUSE] * 99).open(0)


def test_the_port_of_a_description() -> None:
    """By its place or its name."""
    assert [port_of(text) for text in ("tcp:5000", "tcp:port=5001:backlog=9", "tcp:backlog=9:5002")] == [
        5000,
        5001,
        5002,
    ]


def test_addresses_as_people_write_them() -> None:
    """IPv6 in brackets before a port; an IPv4 client by its own address, whatever socket it came to."""
    assert (joined("::1", 80), joined("127.0.0.1", 80)) == ("[::1]:80", "127.0.0.1:80")
    assert plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert (plain("::1"), plain("192.0.2.1"), plain("-"), plain("::ffff:1")) == ("::1", "192.0.2.1", "-", "::ffff:1")

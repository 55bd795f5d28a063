"""IPv4 and IPv6: which ports serve both, and what is opened where a machine has only one."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import CannotListenError

from orchestratord.families import is_for_all, joined, open_for_all, plain, serves_both

EVERYWHERE = r":interface=\:\:"


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


class Machine:
    """A kernel: what its ports are, and what it says of others, by the endpoint description."""

    def __init__(self, *, apart: bool = False, **refuses: Any) -> None:
        self.apart = apart
        self.refuses: dict[str, list[int]] = refuses
        self.opened: list[str] = []
        self.closed = 0
        self.chosen = 40000

    def open(self, description: str) -> Port:
        """Open a port, or refuse."""
        six = description.endswith(EVERYWHERE)
        refused = self.refuses.get("six" if six else "four")
        if refused:
            number = refused.pop(0)
            if number:
                raise CannotListenError("", 0, OSError(number, "no"))
        self.opened.append(description)
        number = int(description.split(":")[1].removeprefix("port="))
        if not number:
            self.chosen += 1
            number = self.chosen
        return Port(self, number, six)


class Port:
    """An open one."""

    def __init__(self, machine: Machine, number: int, six: bool) -> None:
        self._machine, self._number, self._six = machine, number, six
        self.socket = self
        self.family = socket.AF_INET6 if six else socket.AF_INET

    def getsockopt(self, level: int, option: int) -> int:
        """Return whether it takes IPv6 alone."""
        assert (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert self._six
        return int(self._machine.apart)

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return its address."""
        return IPv6Address("TCP", "::", self._number) if self._six else IPv4Address("TCP", "0.0.0.0", self._number)

    def stopListening(self) -> None:
        """Count."""
        self._machine.closed += 1


def test_one_socket_serves_both() -> None:
    """Where the system lets it."""
    machine = Machine()
    (port,) = open_for_all(machine.open, "tcp:5000:backlog=9")
    assert machine.opened == ["tcp:5000:backlog=9" + EVERYWHERE]
    assert serves_both(port)


@pytest.mark.parametrize("description", ["tcp:5000", "tcp:0", "tcp:port=5000:backlog=9"])
def test_two_sockets_where_the_system_keeps_them_apart(description: str) -> None:
    """On the same port, the kernel's choice too."""
    machine = Machine(apart=True)
    six, four = open_for_all(machine.open, description)
    assert six.getHost().port == four.getHost().port
    assert not serves_both(six)
    assert not serves_both(four)
    assert machine.opened[1] == f"tcp:{six.getHost().port}" + (":backlog=9" if "backlog" in description else "")


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, socket.EAI_ADDRFAMILY])
def test_a_machine_without_ipv6(number: int) -> None:
    """It serves IPv4."""
    machine = Machine(six=[number])
    assert len(open_for_all(machine.open, "tcp:5000")) == 1
    assert machine.opened == ["tcp:5000"]


def test_a_machine_without_ipv4() -> None:
    """It serves IPv6."""
    machine = Machine(apart=True, four=[errno.EAFNOSUPPORT])
    assert len(open_for_all(machine.open, "tcp:5000")) == 1
    assert machine.closed == 0


@pytest.mark.parametrize("number", [errno.EADDRINUSE, errno.EACCES])
@pytest.mark.parametrize("family", ["six", "four"])
def test_a_port_that_is_taken_is_an_error(family: str, number: int) -> None:
    """Half a service would be found out late."""
    with pytest.raises(CannotListenError):
        open_for_all(Machine(apart=True, **{family: [number]}).open, "tcp:5000")


def test_another_port_is_tried_where_the_kernel_chooses() -> None:
    """Its choice for IPv6 may be taken for IPv4; not for ever."""
    machine = Machine(apart=True, four=[errno.EADDRINUSE, errno.EADDRINUSE, 0])
    six, four = open_for_all(machine.open, "tcp:0")
    assert six.getHost().port == four.getHost().port == 40003
    assert machine.closed == 2
    with pytest.raises(CannotListenError):
        open_for_all(Machine(apart=True, four=[errno.EADDRINUSE] * 99).open, "tcp:0")


def test_addresses_as_people_write_them() -> None:
    """IPv6 in brackets before a port; an IPv4 client by its own address, whatever socket it came to."""
    assert (joined("::1", 80), joined("127.0.0.1", 80)) == ("[::1]:80", "127.0.0.1:80")
    assert plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert (plain("::1"), plain("192.0.2.1"), plain("-"), plain("::ffff:1")) == ("::1", "192.0.2.1", "-", "::ffff:1")

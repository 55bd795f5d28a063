"""Memory that is lent."""

from __future__ import annotations

from threading import Thread

from orchestratord.runtime.memory_budget import Room


def test_no_more_is_lent_than_there_is() -> None:
    """A lease that finds no room is left as it was."""
    room = Room(100)
    one, other = room.lease(), room.lease()
    assert one.hold(60)
    assert not other.hold(41)
    assert other.hold(40)
    assert not other.hold(41)
    assert (one.held, other.held, room.held) == (60, 40, 100)
    assert one.hold(10)
    assert other.hold(90)


def test_a_lease_ends() -> None:
    """By itself or with the last one who knows of it, once."""
    room = Room(100)
    one, other = room.lease(), room.lease()
    one.hold(50)
    other.hold(50)
    one.end()
    one.end()
    assert room.held == 50
    del one, other
    assert room.held == 0
    assert room.lease().hold(100)


def test_a_lease_that_another_thread_drops_is_given_back() -> None:
    """The collector of garbage may run anywhere."""
    room = Room(100)
    leases = [room.lease() for _ in range(10)]
    for lease in leases:
        lease.hold(10)
    del lease
    thread = Thread(target=leases.clear)
    thread.start()
    thread.join()
    assert room.held == 0
    assert room.lease().hold(100)

"""Long work that lets others run in between."""

from __future__ import annotations

from threading import Event, Thread

from orchestratord.runtime.gil_yield import breathing, let_go


def test_nothing_is_lost_on_the_way() -> None:
    """All items, in their order, whatever the size of a step."""
    for every in (1, 3, 10, 11):
        assert list(breathing(range(10), every)) == list(range(10))


def test_another_thread_has_its_turn() -> None:
    """One that waits for the interpreter gets it while the work goes on, though it is far from its end."""
    begun, seen = Event(), Event()

    def wait() -> None:
        begun.wait()
        seen.set()

    other = Thread(target=wait)
    other.start()
    for _ in breathing(range(10_000_000), 1):
        begun.set()
        if seen.is_set():
            break
    other.join()
    assert seen.is_set()


def test_a_list_is_let_go_of_wholly() -> None:
    """However many steps that takes."""
    for length in (0, 1, 500, 1234):
        items = list(range(length))
        let_go(items)
        assert items == []

"""What the package `runtime` relies on in Twisted, though Twisted does not promise it.

The tests use Twisted alone: one that fails says that a new Twisted is different, and names the code to change.
"""

from __future__ import annotations

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.protocol import Factory
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import capturedLogs
from twisted.python import usage
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]  # it chooses one for the system


def test_the_reactor_reads_the_time_from_its_attribute_seconds() -> None:
    """run_by_monotonic_clock in runtime/clock.py replaces it: timers are set, waited for and run by it."""
    now = 1000.0
    reactor = SelectReactor()
    assert isinstance(reactor, ReactorBase)
    reactor.seconds = lambda: now
    ran: list[str] = []
    call = reactor.callLater(10, ran.append, "ran")
    assert (call.getTime(), reactor.timeout()) == (1010.0, 10.0)
    reactor.runUntilCurrent()
    assert not ran
    now = 1010.0
    reactor.runUntilCurrent()
    assert ran == ["ran"]


@pytest.mark.parametrize(("noisy", "lines"), [(True, 2), (False, 0)])
def test_a_factory_logs_its_start_and_its_end_if_it_is_noisy(noisy: bool, lines: int) -> None:
    """runtime/twistd.py sets the attribute of the class, which all factories look at that do not have their own."""
    factory = type("Quiet", (Factory,), {"noisy": noisy})()
    with capturedLogs() as logs:
        factory.doStart()
        factory.doStop()
    assert len(logs) == lines
    assert "noisy" in vars(Factory)


def test_an_option_that_was_not_given_is_the_very_object_of_the_defaults() -> None:
    """_settle_pidfile in runtime/twistd.py tells by this whether twistd's --pidfile was given."""
    assert ServerOptions().defaults["pidfile"] == "twistd.pid"

    class Options(usage.Options):
        optParameters = [["pidfile", None, "twistd.pid", ""]]  # noqa: RUF012 - Twisted's own declaration has no type

    options = Options()
    options.parseOptions([])
    assert options["pidfile"] is options.defaults["pidfile"]
    options.parseOptions(["--pidfile=twistd.pid"])
    assert options["pidfile"] == options.defaults["pidfile"]
    assert options["pidfile"] is not options.defaults["pidfile"]

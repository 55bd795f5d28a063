"""Settings for all tests."""

import os
import signal

import pytest
from hypothesis import settings
from twisted.internet import reactor

from orchestratord.runtime.clock import run_by_monotonic_clock

# As the taps do, before anything is scheduled.
run_by_monotonic_clock(reactor)

# A shell without job control starts a job in the background with Ctrl-C ignored, which every program under it inherits.
# Some tests send it to the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no database of failures left behind: a failing test fails for everyone.
settings.register_profile("house", derandomize=True, database=None, deadline=None, max_examples=150)
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """Measure what runs the tests, as `make test` asks for, and none of the programs that they start."""
    if not config.getoption("numprocesses", None):
        os.environ.pop("COVERAGE_PROCESS_START", None)

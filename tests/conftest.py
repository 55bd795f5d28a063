"""Settings for all tests."""

from hypothesis import settings
from twisted.internet import reactor

from orchestratord.timers import run_by_monotonic_clock

# As the taps do, before anything is scheduled.
run_by_monotonic_clock(reactor)

# The same examples in every run, and no database of failures left behind: a failing test fails for everyone.
settings.register_profile("house", derandomize=True, database=None, deadline=None, max_examples=150)
settings.load_profile("house")

"""Environment variables that look like options but are not."""

from __future__ import annotations

import pytest

from orchestratord.runtime.environment import MAX_NAME, MAX_NAMED, misspelt

KNOWN = ["ORCHESTRATOR_LISTEN", "ORCHESTRATOR_STALE_AFTER", "ORCHESTRATOR_TOKEN_FILE"]


def told(**environ: str) -> list[str]:
    """Return the lines for an environment."""
    return misspelt("ORCHESTRATOR_", KNOWN, environ)


def test_the_nearest_name_is_offered() -> None:
    """A wrong spelling and a wrong case are both found. The value is never shown."""
    for name in ("ORCHESTRATOR_STALE_AFER", "ORCHESTRATOR_STALEAFTER", "orchestrator_stale_after"):
        (line,) = told(**{name: "secret"})
        assert line == (
            f"the environment variable {name!r} is not an option and is ignored; did you mean ORCHESTRATOR_STALE_AFTER?"
        )


def test_a_name_like_no_other_is_named_alone() -> None:
    """If no option is similar, the line suggests none."""
    assert told(ORCHESTRATOR_QQ="1") == ["the environment variable 'ORCHESTRATOR_QQ' is not an option and is ignored"]


@pytest.mark.parametrize(
    "name",
    [
        "ORCHESTRATOR_SERVICE_SERVICE_HOST",
        "ORCHESTRATOR_SERVICE_SERVICE_PORT",
        "ORCHESTRATOR_SERVICE_SERVICE_PORT_HTTP",
        "ORCHESTRATOR_SERVICE_PORT",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP_PROTO",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP_PORT",
        "ORCHESTRATOR_SERVICE_PORT_5000_TCP_ADDR",
        "ORCHESTRATOR_PORT",
    ],
)
def test_what_kubernetes_sets_is_passed_over(name: str) -> None:
    """Variables of Kubernetes are recognized by their form; `ORCHESTRATOR_PORT=8080` was written by a person."""
    assert told(**{name: "tcp://10.0.0.1:5000"}) == []
    assert len(told(ORCHESTRATOR_PORT="8080")) == 1


def test_options_and_the_rest_of_the_environment_are_silent() -> None:
    """A correct variable and one without our prefix get no line."""
    assert told(ORCHESTRATOR_LISTEN="tcp:1", PATH="/bin", ORCHESTRATORS="1") == []


def test_the_lines_are_bounded() -> None:
    """The number of lines is bounded, and so is the length of each name."""
    lines = told(**{f"ORCHESTRATOR_{number:03}{'x' * 9999}": "" for number in range(200)})
    assert len(lines) == MAX_NAMED + 1
    assert max(map(len, lines)) < MAX_NAME + 100

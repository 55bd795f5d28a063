"""Numbers from outside, wherever they are read: odd ones are refused, and no failure of ours is logged.

Python's `int` takes signs, underscores, white space and the digits of other scripts, and fails beyond 4,300 digits.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest
from twisted.logger import capturedLogs

from orchestratord.promql.client import Answer
from tests.wire import Wire, request

#: What is a number nowhere.
ODD = [
    "1_0",
    "+-1",
    "0x1",
    "\u0661",
    "1e",
    "1e400",
    "9" * 400,
    "9" * 5000,
    "9" * 5000 + "s",
    "1" + "0" * 5000 + "y",
    "NaN",
]
PLACES = [
    "/query?q=up&time={}",
    "/query?q=up&timeout={}",
    "/query?q=up&start={}&end=10",
    "/query?q=up&start=1&end={}",
    "/query?q=up&start=1&end=10&step={}",
]


@pytest.mark.parametrize("number", ODD, ids=lambda number: number[:8])
@pytest.mark.parametrize("place", PLACES)
def test_of_a_query(place: str, number: str) -> None:
    """400, in Prometheus' envelope, and Prometheus is not asked."""
    wire = Wire()
    wire.upstreams.answer = Answer(200, b"application/json", b"{}")
    with capturedLogs() as logs:
        answer = wire.ask("GET", place.format(quote(number)))
    assert (answer.status, answer.json["errorType"]) == (400, "bad_data")
    assert not [event for event in logs if "log_failure" in event]
    assert wire.upstreams.asked == []


@pytest.mark.parametrize("number", ODD, ids=lambda number: number[:8])
@pytest.mark.parametrize(
    "path", ["/graph?q=up&range={}", "/graph.svg?q=up&range={}", "/graph.svg?q=up&step={}&range=1h"]
)
def test_of_a_page(path: str, number: str) -> None:
    """No failure of ours, whatever it makes of it."""
    wire = Wire()
    wire.upstreams.answer = Answer(
        200, b"application/json", b'{"status":"success","data":{"resultType":"matrix","result":[]}}'
    )
    with capturedLogs() as logs:
        answer = wire.ask("GET", path.format(quote(number)), Accept="text/html")
    assert answer.status < 500
    assert not [event for event in logs if "log_failure" in event]


@pytest.mark.parametrize("number", [number for number in ODD if number != "1e"], ids=lambda number: number[:8])
@pytest.mark.parametrize("member", ["page_faults", "timestamp"])
def test_of_a_report(member: str, number: str) -> None:
    """400, with the place, on both ways, and nothing is stored."""
    body = f'{{"node_id": "n1", "{member}": {number}}}'.encode()
    for more in ({}, {"X": "y"}):
        wire = Wire()
        connection = wire.connect()
        with capturedLogs() as logs:
            connection.send(request("POST", "/update_metrics", body, **more))
        (answer,) = connection.answers()
        assert answer.status == 400
        assert list(answer.json) == ["error"]
        assert wire.ids() == []
        assert not [event for event in logs if "log_failure" in event]

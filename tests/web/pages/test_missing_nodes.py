"""Nodes that are gone: the front page names them, and is not green while many are missing; `/nodes?gone=true`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from orchestratord.errors import UpstreamUnavailable
from orchestratord.promql.probe import PATIENCE
from orchestratord.promql.upstreams import Answer as Fetched
from tests.fakes import body
from tests.web.pages.test_resource import BROWSER, JSON, look, text, wired
from tests.wire import Wire, request


def fleet(total: int, silent: int) -> Wire:
    """Return a wire of so many nodes, of which some went silent a minute ago."""
    wire = wired(max_nodes=1000)
    for index in range(total):
        wire.report(body(f"n{index:03}", page_faults=index))
    wire.clocks.now += 50
    for index in range(silent, total):
        wire.report(body(f"n{index:03}", page_faults=index))
    wire.clocks.now += 15
    wire.nodes.expire(wire.clocks.monotonic(), 1000)
    return wire


@pytest.mark.parametrize(
    ("total", "silent", "level", "sentence"),
    [
        (300, 0, "ok", "All 300 nodes report, and Prometheus answers."),
        (300, 10, "ok", "290 nodes report, and Prometheus answers; 10 nodes went silent in the last hour."),
        (300, 29, "ok", "271 nodes report, and Prometheus answers; 29 nodes went silent in the last hour."),
        (300, 30, "warn", "30 of the 300 nodes of the last hour have gone silent."),
        (300, 150, "bad", "150 of the 300 nodes of the last hour have gone silent."),
        (10, 1, "warn", "1 of the 10 nodes of the last hour has gone silent."),
        (3, 3, "bad", "No node reports any more; 3 have gone silent in the last hour."),
    ],
)
def test_the_verdict(total: int, silent: int, level: str, sentence: str) -> None:
    """Not green from a tenth on; all gone is an alarm, and no help for beginners."""
    answer = look(fleet(total, silent), "/")
    assert f'class="message {level}"' in re.findall(r"<h1[^>]*>", answer.body.decode())[0]
    assert sentence in text(answer)
    assert "How to begin" not in text(answer)


def test_who_is_gone_and_since_when() -> None:
    """The last to leave first, twenty of them, and where the rest is."""
    wire = fleet(30, 25)
    wire.clocks.now += 60
    wire.nodes.expire(wire.clocks.monotonic(), 1000)
    said = text(look(wire, "/"))
    assert "Gone in the last hour: 30 nodes n025 last report 1 min 15 s ago, 09:00:50 UTC" in said
    assert said.index("n025 ") < said.index("n000 ") < said.index("n014 ") < said.index("And 10 more: all as JSON")
    assert "n015 " not in said
    assert 'href="/nodes?gone=true"' in look(wire, "/").body.decode()
    assert "And 5 more" not in text(look(fleet(30, 20), "/"))


def test_a_node_that_is_back_is_named_no_more() -> None:
    """Its report is enough."""
    wire = fleet(3, 1)
    assert "Gone in the last hour: 1 node" in text(look(wire, "/"))
    wire.report(body("n000"))
    wire.clock.advance(3)
    said = text(look(wire, "/"))
    assert "All 3 nodes report" in said
    assert "Gone in the last hour" not in said


def test_what_an_operator_deletes_is_no_alarm() -> None:
    """It is named, with the reason."""
    wire = wired("a", "b")
    assert wire.ask("DELETE", "/nodes/a").status == 204
    said = text(look(wire, "/"))
    assert "The one node reports, and Prometheus answers." in said
    assert "Deleted in the last hour: 1 node" in said
    assert wire.ask("DELETE", "/nodes/b").status == 204
    wire.clock.advance(3)
    answer = look(wire, "/")
    assert "No node reports; 2 were deleted in the last hour." in text(answer)
    assert 'class="message note"' in answer.body.decode()
    wire = fleet(3, 1)
    assert wire.ask("DELETE", "/nodes/n002").status == 204
    wire.clock.advance(3)
    said = text(look(wire, "/"))
    assert "Gone 1 in the last hour" in said
    assert "Gone in the last hour: 1 node, and 1 deleted" in said


def test_silence_of_more_than_an_hour() -> None:
    """It stays an alarm when nobody is known by name any more."""
    wire = fleet(3, 3)
    wire.clocks.now += 3700
    answer = look(wire, "/")
    assert "No node has reported for more than an hour." in text(answer)
    assert 'class="message bad"' in answer.body.decode()
    assert "How to begin" not in text(answer)


def test_the_list_of_who_is_gone() -> None:
    """Sorted by id, with the last report, by the calendar, and why."""
    wire = fleet(4, 2)
    assert wire.ask("DELETE", "/nodes/n003").status == 204
    now = wire.clocks.time()
    answer = wire.ask("GET", "/nodes?gone=true")
    assert answer.json == {
        "gone": [
            {
                "node_id": name,
                "last_report": pytest.approx(now - age),
                "age_seconds": pytest.approx(age),
                "gone_since": pytest.approx(now - since),
                "reason": reason,
            }
            for name, age, since, reason in (
                ("n000", 65, 5, "stale"),
                ("n001", 65, 5, "stale"),
                ("n003", 15, 0, "deleted"),
            )
        ]
    }
    assert wired("a").ask("GET", "/nodes?gone=1").json == {"gone": []}
    assert wire.ask("GET", "/nodes?gone=false").json == {"nodes": ["n002"]}
    refused = wire.ask("GET", "/nodes?gone=maybe")
    assert (refused.status, refused.json) == (
        400,
        {"error": "invalid parameter 'gone': must be true or false, not 'maybe'"},
    )


def begin(wire: Wire, head: bytes) -> str:
    """Return what the page says to a browser with this Host header."""
    connection = wire.connect()
    connection.send(head)
    (answer,) = connection.answers()
    return text(answer)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("orchestrator.example:8443", "http://orchestrator.example:8443"),
        ("[::1]:5001", "http://[::1]:5001"),
        ("10.0.0.7", "http://10.0.0.7"),
        ("", "http://10.0.0.1:12345"),
    ],
)
def test_how_to_begin_has_our_address(host: str, address: str) -> None:
    """That by which the page was asked for; where it was asked for by none, where the connection came in."""
    said = begin(wired(), f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: {BROWSER}\r\n\r\n".encode())
    assert f"curl {address}/update_metrics" in said
    assert f"--orchestrator {address} --node-id" in said


def test_another_ones_address_is_not_shown() -> None:
    """Two who ask by two names within two seconds each see their own."""
    wire = wired()
    for name in ("one", "two"):
        head = request("GET", "/", Accept=BROWSER).replace(b"Host: test", f"Host: {name}".encode())
        assert f"curl http://{name}/update_metrics" in begin(wire, head)


def alerts(*labels: dict[str, str], state: str = "firing") -> Fetched:
    """Return Prometheus' answer to /api/v1/alerts."""
    listed = [
        {
            "labels": one,
            "annotations": {"summary": "It is <b>bad</b>."},
            "state": state,
            "activeAt": "2026-11-23T08:57:59.523456789Z",
            "value": "1e+00",
        }
        for one in labels
    ]
    return Fetched(200, JSON, json.dumps({"status": "success", "data": {"alerts": listed}}).encode())


def test_firing_alerts_stand_on_the_front_page() -> None:
    """The worst first, what it says, and where to look; what is pending does not."""
    wire = wired("n1")
    wire.upstreams.alerts = alerts(
        {"alertname": "Slow", "severity": "warning"},
        {"alertname": "Gone", "severity": "critical", "node_id": "n1"},
        {"alertname": "<i>", "severity": "info", "node_id": "../etc"},
    )
    answer = look(wire, "/")
    said = text(answer)
    assert "Firing: 3 alerts Gone critical n1 for 2 min It is &lt;b&gt;bad&lt;/b&gt;." in said
    assert said.index("Gone critical") < said.index("Slow warning") < said.index("&lt;i&gt; info")
    assert b'href="/nodes/n1"' in answer.body
    assert b"etc" not in answer.body.partition(b"Firing")[2].partition(b"</section>")[0]
    wire.clock.advance(11)
    wire.upstreams.alerts = alerts({"alertname": "Slow"}, state="pending")
    assert "Firing" not in text(look(wire, "/"))


@pytest.mark.parametrize(
    "answer",
    [
        Fetched(404, b"text/plain", b"no such path"),
        Fetched(200, JSON, b"{"),
        Fetched(200, JSON, b'{"data": {"alerts": 7}}'),
        Fetched(200, JSON, b'{"data": {"alerts": [' + b" " * 300_000 + b"]}}"),
        UpstreamUnavailable("nobody there"),
        RuntimeError("a bug"),
    ],
)
def test_an_upstream_that_does_not_tell_its_alerts(answer: Any) -> None:
    """The page stands without them."""
    wire = wired("n1")
    wire.upstreams.alerts = answer
    said = text(look(wire, "/"))
    assert "The one node reports, and Prometheus answers." in said
    assert "Firing" not in said


@pytest.mark.parametrize("path", ["/api/v1/rules", "/api/v1/alerts"])
def test_rules_and_alerts_are_passed_through(path: str) -> None:
    """To look at: as they are, with the parameters, by GET alone."""
    wire = wired()
    wire.upstreams.answer = Fetched(200, JSON, b'{"status":"success","data":{"groups":[]}}')
    answer = wire.ask("GET", f"{path}?type=alert")
    assert (answer.status, answer.body) == (200, wire.upstreams.answer.body)
    (asked,) = wire.upstreams.asked
    assert (asked.path, asked.params) == (path, (("type", "alert"),))
    refused = wire.ask("POST", path)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


def test_an_upstream_whose_alerts_hang_holds_up_no_page() -> None:
    """The page waits for a moment, as it does for a query; the alerts stand on a later one."""
    wire = wired("a")
    wire.upstreams.alerts = hanging = Deferred[Any]()
    connection = wire.connect()
    connection.send(request("GET", "/", Accept=BROWSER))
    assert connection.answers() == []
    wire.clock.advance(PATIENCE)
    (answer,) = connection.answers()
    assert "The one node reports, and Prometheus answers." in text(answer)
    hanging.callback(alerts({"alertname": "Slow"}))
    wire.clock.advance(3)
    assert "Firing: 1 alert Slow" in text(look(wire, "/"))

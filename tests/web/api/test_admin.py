"""The probes and DELETE /nodes/<id> on a listener of their own."""

from __future__ import annotations

import pytest

from tests.fakes import body
from tests.wire import Wire


@pytest.fixture
def wire() -> Wire:
    """A daemon whose administration is elsewhere, with a node."""
    wire = Wire(admin_elsewhere=True)
    assert wire.report(body("n1", page_faults=1)).status == 200
    return wire


def test_it_answers_probes_and_forgets_nodes(wire: Wire) -> None:
    """As the main listeners do where there is no other."""
    admin = wire.admin_wire()
    assert admin.ask("GET", "/-/healthy").body == b"healthy\n"
    assert admin.ask("GET", "/-/ready").body == b"ready\n"
    wire.sick, wire.draining = "sick", True
    assert (admin.ask("GET", "/-/healthy").status, admin.ask("GET", "/-/healthy").body) == (500, b"sick\n")
    assert (admin.ask("GET", "/-/ready").status, admin.ask("GET", "/-/ready").body) == (503, b"draining\n")
    assert admin.ask("DELETE", "/nodes/n1").status == 204
    assert admin.ask("DELETE", "/nodes/n1").json == {"error": "no fresh report of node 'n1'"}
    assert wire.ids() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nodes"),
        ("GET", "/metrics"),
        ("GET", "/query?q=page_faults"),
        ("GET", "/api/v1/query?query=up"),
        ("GET", "/-/x"),
        ("GET", "/%ff"),
    ],
)
def test_it_answers_nothing_else(wire: Wire, method: str, path: str) -> None:
    """404, that tells what there is."""
    answer = wire.admin_wire().ask(method, path)
    assert answer.status == 404
    assert "/-/ready" in answer.json["error"] or path == "/%ff"


def test_it_takes_no_reports(wire: Wire) -> None:
    """404, and nothing is stored."""
    assert wire.admin_wire().report(body("n2"), Content_Type="application/json").status == 404
    assert wire.ids() == ["n1"]


def test_it_reads_no_nodes(wire: Wire) -> None:
    """405: there is a route of that path, for another method."""
    answer = wire.admin_wire().ask("GET", "/nodes/n1")
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE")


def test_its_bodies_are_bounded() -> None:
    """As everywhere."""
    admin = Wire(max_body=100, admin_elsewhere=True).admin_wire()
    connection = admin.connect()
    connection.send(b"DELETE /nodes/x HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n")
    (answer,) = connection.answers()
    assert answer.status == 413


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready", "/-", "/-/x"])
def test_the_main_listeners_have_no_probes_then(wire: Wire, method: str, path: str) -> None:
    """404, whatever the method."""
    answer = wire.ask(method, path)
    assert (answer.status, answer.json["error"]) == (404, "no such path; GET / lists what there is")


def test_the_main_listeners_forget_nothing_then(wire: Wire) -> None:
    """405, with the methods that there are; every other method is told the same."""
    for method in ("DELETE", "PUT"):
        answer = wire.ask(method, "/nodes/n1")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert wire.ids() == ["n1"]
    assert wire.ask("GET", "/nodes/n1").status == 200


def test_the_main_index_tells_of_neither_then(wire: Wire) -> None:
    """It lists what there is."""
    assert b"DELETE" not in wire.ask("GET", "/").body
    assert b"/-/ready" not in wire.ask("GET", "/").body
    assert b"/-/ready" in Wire().ask("GET", "/").body

"""etc/openapi.yaml, held against a running daemon with a real Prometheus behind it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from tests.description import Operation, Request, check, operation, operations, resolved
from tests.integration.daemon import PATIENCE, Daemon, report, until
from tests.integration.stores import Prometheus, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon that knows node-1 and node-2, with a Prometheus that has scraped it."""
    home = tmp_path_factory.mktemp("described")
    prometheus = Prometheus(home / "prometheus")
    daemon = Daemon(home / "daemon", "--prometheus", prometheus.url)
    try:
        prometheus.start(daemon.started().port)
        daemon.post([report("node-1", page_faults=52103), report("node-2", page_faults=1)]).raise_for_status()
        until(lambda: result(daemon.get("/query", {"q": "page_faults"})), "a scrape")
        yield daemon
        daemon.stop()
    finally:
        prometheus.close()
        daemon.close()


def send(daemon: Daemon, wanted: Request) -> requests.Response:
    """Send a request that is made of examples."""
    form = wanted.media_type == "application/x-www-form-urlencoded"
    return requests.request(
        wanted.operation.method,
        daemon.url + wanted.path,
        params={name: json.dumps(value) if isinstance(value, bool) else value for name, value in wanted.query.items()},
        json=None if form else wanted.body,
        data=wanted.body if form else None,
        timeout=PATIENCE,
    )


def is_as_described(one: Operation, answer: requests.Response) -> None:
    """Fail unless an answer's status, media type, headers and body are described so."""
    told = one.response(answer.status_code)
    for name, header in told.get("headers", {}).items():
        assert name in answer.headers or not resolved(header).get("required"), name
    if "content" not in told:
        assert answer.content == b""
        return
    media_type = answer.headers["Content-Type"].partition(";")[0]
    schema = told["content"][media_type]["schema"]
    if media_type.startswith(("text/", "image/")):
        check(schema, answer.text)
    else:
        check(schema, answer.json() if media_type == "application/json" else yaml.safe_load(answer.text))


@pytest.mark.parametrize("one", list(operations()), ids=lambda one: one.name)
def test_examples_are_answered_as_described(described: Daemon, one: Operation) -> None:
    """Every example of a request is a success, and its answer what the description says."""
    for wanted in one.requests():
        described.post([report("node-1", page_faults=52103), report("node-2", page_faults=1)]).raise_for_status()
        answer = send(described, wanted)
        assert answer.ok, (wanted.example, answer.text)
        is_as_described(one, answer)
        told = one.response(answer.status_code).get("content", {}).get("application/json", {})
        if one.name == "report":  # what it answers does not depend on what else is known
            assert answer.json() == told["examples"][wanted.example]["value"]


#: Requests that are answered just as an example of an error says: operation, status, name of the example, request.
ERRORS: list[tuple[str, int, str, dict[str, Any]]] = [
    ("report", 400, "family", {"json": {"node_id": "n", "page_faults": -1}}),
    ("report", 400, "batch", {"json": [report("n") for _ in range(17)] + [{}]}),
    ("report", 415, "", {"data": "x", "headers": {"Content-Type": "text/plain"}}),
    ("listNodes", 400, "", {"params": {"details": "maybe"}}),
    ("query", 400, "", {}),
]


@pytest.mark.parametrize(("name", "status", "example", "options"), ERRORS)
def test_examples_of_errors_are_what_is_answered(
    described: Daemon, name: str, status: int, example: str, options: dict[str, Any]
) -> None:
    """To the letter."""
    one = operation(name)
    answer = requests.request(one.method, described.url + one.path, timeout=PATIENCE, **options)
    assert answer.status_code == status
    is_as_described(one, answer)
    told = one.response(status)["content"]["application/json"]
    assert answer.json() == (told["examples"][example]["value"] if example else told["example"])


def test_an_unknown_node_is_answered_as_described(described: Daemon) -> None:
    """Whoever asks for it or forgets it."""
    for name in ("getNode", "forgetNode"):
        one = operation(name)
        answer = requests.request(one.method, f"{described.url}/nodes/node-9", timeout=PATIENCE)
        assert answer.json() == one.response(404)["content"]["application/json"]["example"]
        is_as_described(one, answer)


def unreachable(daemon: Daemon, operations: Iterable[Operation]) -> None:
    """Assert that these routes answer that nobody can be reached, as they are described."""
    for one in operations:
        answer = requests.request(
            one.method,
            daemon.url + one.path.format(name="node_id", node_id="n1"),
            params={"q": "up", "query": "up", "match[]": "up"},
            timeout=PATIENCE,
        )
        assert answer.status_code == 502, one.name
        is_as_described(one, answer)


def test_a_query_without_prometheus_is_answered_as_described(daemon: Daemon) -> None:
    """Through every route that asks it."""
    asking = [one for one in operations() if "502" in one.told["responses"]]
    unreachable(daemon, [one for one in asking if not one.path.startswith(("/nodes", "/fleet"))])


def test_a_fleet_without_its_store_is_answered_as_described(start: Callable[..., Daemon]) -> None:
    """With --remote-write the store is who knows the nodes."""
    url = "http://127.0.0.1:9"
    daemon = start("--prometheus", url, "--remote-write", f"{url}/api/v1/write")
    asking = [one for one in operations() if "502" in one.told["responses"]]
    asking = [one for one in asking if one.path.startswith(("/nodes", "/fleet"))]
    assert len(asking) == 4
    unreachable(daemon, asking)

"""Real stores take what the encoder makes."""

from __future__ import annotations

import struct
import time
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests

from orchestratord.nodes.families import BUILT_IN
from orchestratord.remote_write.codec import HEADERS, Encoder
from orchestratord.remote_write.sample_row import ABSENT, STALE, SampleRow, row_names
from tests.integration.daemon import PATIENCE, full_report, until
from tests.integration.stores import Prometheus, Store, VictoriaMetrics, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.integration.daemon import Daemon

pytestmark = pytest.mark.integration

_asked = count()

NAMES = row_names(BUILT_IN)
LABELS = (("Site", "Köln"), ("zone", "b"))
FAMILY = NAMES[0]


@pytest.fixture(scope="module", params=[Prometheus, VictoriaMetrics])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Give a store that knows nothing yet."""
    store: Store = request.param(tmp_path_factory.mktemp("store"))
    try:
        store.start()
        yield store
    finally:
        store.close()


def row(node_id: str, timestamp: int, *values: float | bytes) -> SampleRow:
    """Return a row with these first values, and the last of them for the rest."""
    packed = [value if isinstance(value, bytes) else struct.pack("<d", value) for value in values]
    return SampleRow(node_id.encode(), timestamp, b"".join(packed + packed[-1:] * (len(NAMES) - len(packed))))


def send(store: Store, rows: Sequence[SampleRow]) -> None:
    """Send rows, which the store must take."""
    body = Encoder(NAMES, LABELS).encode(rows).body
    answer = requests.post(store.receiver, data=body, headers=dict(HEADERS), timeout=PATIENCE)
    assert answer.status_code == 204, answer.text


def selector(nodes: str, family: str = FAMILY) -> str:
    """Return a selector that has never been asked for: VictoriaMetrics remembers for 10 s which series one had."""
    return f'{{__name__=~"{family}",node_id=~"{nodes}",node_id!="{next(_asked)}"}}'


def samples(store: Store, nodes: str, family: str = FAMILY) -> dict[str, list[tuple[int, float]]]:
    """Return the raw samples of the last quarter of an hour, in milliseconds, by node; the labels must be right."""
    found = {}
    for series in store.instant(f"{selector(nodes, family)}[15m]"):
        labels = series["metric"]
        assert labels == {"__name__": labels["__name__"], "node_id": labels["node_id"], **dict(LABELS)}
        values = [(round(at * 1000), float(value)) for at, value in series["values"]]
        assert labels["node_id"] not in found
        found[labels["node_id"]] = values
    return found


def test_a_store_takes_a_request_of_many_rows(store: Store) -> None:
    """Each sample is there with its own time and value, and no other: of nodes that reported once, often, not all.

    VictoriaMetrics has decimal numbers inside, of 15 digits or so.
    """
    now = round(time.time() * 1000)
    rows = [row(f"many-{number}", now - 5000 + number, 4096.0 * number, 0.5, 2.0**64) for number in range(500)]
    rows += [row("often", now - 60_000 + 10_000 * index, float(index)) for index in (2, 0, 1)]
    rows.append(row("some", now, ABSENT, 1.0, ABSENT))
    send(store, rows)
    until(lambda: len(samples(store, "many-.*|often")) == 501, "samples of all nodes")
    found = samples(store, "many-.*|often")
    assert found.pop("often") == [(now - 60_000 + 10_000 * index, float(index)) for index in (0, 1, 2)]
    assert found == {f"many-{number}": [(now - 5000 + number, 4096.0 * number)] for number in range(500)}
    assert samples(store, "some", ".*") == {"some": [(now, 1.0)]}
    ((at, value),) = samples(store, "many-7", NAMES[-1])["many-7"]
    assert at == now - 4993
    assert value == pytest.approx(2.0**64, rel=1e-14)


def test_a_marker_ends_a_series(store: Store) -> None:
    """Instant queries answer with the node until then, and no more from then on; other nodes are still there."""
    now = round(time.time() * 1000)
    send(store, [row("going", now - 4000, 7.0), row("staying", now - 4000, 7.0)])

    def there() -> set[str]:
        return {series["metric"]["node_id"] for series in store.instant(selector("going|staying"))}

    until(lambda: there() == {"going", "staying"}, "both nodes")
    send(store, [row("going", now - 2000, STALE)])
    until(lambda: there() == {"staying"}, "an end of one")
    assert {series["metric"]["node_id"] for series in store.instant(FAMILY, (now - 3000) / 1000)} >= {"going"}


@pytest.mark.parametrize("path", ["/query?q=", "/api/v1/query?query="])
def test_a_report_can_be_asked_for_as_soon_as_the_store_sees_it(
    store: Store, start: Callable[..., Daemon], path: str
) -> None:
    """Through the daemon as well, whatever the store keeps back for want of certainty by default."""
    daemon = start("--remote-write", store.receiver, "--prometheus", store.url)
    node_id = f"seen-{path[1:4].strip('/')}"
    daemon.post(full_report(node_id, 7)).raise_for_status()
    until(lambda: store.instant(selector(node_id)), "the report in the store")
    (series,) = result(daemon.get(path + quote(selector(node_id))))
    assert series["value"][1] == "7"

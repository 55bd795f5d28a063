"""From the table to the exposition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from orchestratord.nodes.exposition import (
    NODE_INFO,
    REPORT_DELAY,
    Exposition,
    NodeCollector,
    SampleRenderer,
    unrendered,
)
from orchestratord.nodes.families import BUILT_IN, LAST_REPORT, Family
from orchestratord.nodes.report_decoder import ReportDecoder
from orchestratord.nodes.store import NodeStore
from tests.fakes import FAMILIES, NOW, Metrics, body, report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from orchestratord.nodes.families import Families


def registry(families: Families, *bodies: bytes) -> CollectorRegistry:
    """Return a registry over a table of these reports."""
    nodes = NodeStore(stale_after=60, max_nodes=100)
    decoder = ReportDecoder(families, SampleRenderer(families))
    for one in bodies:
        nodes.update(decoder.decode(one, NOW).reports, 0)
    result = CollectorRegistry()
    result.register(NodeCollector(families, lambda: nodes.snapshot(1)))
    return result


def samples(families: Iterable[Metric]) -> dict[tuple[str, str], float]:
    """Return the values by name and node."""
    return {(sample.name, sample.labels["node_id"]): sample.value for family in families for sample in family.samples}


def test_both_formats_read_back_to_the_same_values() -> None:
    """With prometheus_client's own parsers: HELP, TYPE, the catalogue's order, and every value exactly."""
    sent = dict(zip(FAMILIES, [0, 1, 2**53, 2**64 - 1, 0.1, 1e-9, 1e18, 3.5], strict=True))
    exposed = registry(BUILT_IN, body("a", **sent), body("b", page_faults=7))
    expected = {(name, "a"): float(value) for name, value in sent.items()}
    expected |= {("page_faults", "b"): 7.0, (LAST_REPORT, "a"): NOW, (LAST_REPORT, "b"): NOW}
    text = list(parse_text(generate_latest(exposed).decode()))
    openmetrics = list(parse_openmetrics(generate_openmetrics(exposed).decode()))
    assert samples(text) == expected
    assert samples(openmetrics) == expected
    assert [family.name for family in text] == [*FAMILIES, LAST_REPORT, REPORT_DELAY, NODE_INFO]
    assert all(family.type == "gauge" and family.documentation for family in text)


def test_a_family_that_no_node_reports_is_described_all_the_same() -> None:
    """So that a dashboard finds its name before the first report."""
    text = generate_latest(registry(BUILT_IN)).decode()
    assert "# TYPE fs_write_size_kb gauge\n" in text
    assert "node_id" not in text.replace("# HELP", "")


def test_families_of_the_configuration() -> None:
    """A counter, a gauge with its unit, one whose name does not end with the unit."""
    families = BUILT_IN.with_more(
        [
            Family("tcp_retransmits_total", "Sent again.", kind="counter"),
            Family("temperature_celsius", "How warm.", unit="celsius", minimum=None),
            Family("speed", "How fast.", unit="rpm"),
        ]
    )
    exposed = registry(families, body("a", tcp_retransmits_total=5, temperature_celsius=-3.5, speed=900))
    text = generate_latest(exposed).decode()
    assert '# TYPE tcp_retransmits_total counter\ntcp_retransmits_total{node_id="a"} 5.0\n' in text
    assert 'temperature_celsius{node_id="a"} -3.5\n' in text
    assert 'speed{node_id="a"} 900.0\n' in text
    openmetrics = generate_openmetrics(exposed).decode()
    assert "# UNIT temperature_celsius celsius\n" in openmetrics
    assert ("tcp_retransmits_total", "a") in samples(parse_openmetrics(openmetrics))


def test_one_family_can_be_asked_for() -> None:
    """`name[]` filters by what the collector describes."""
    exposed = registry(BUILT_IN, body("a", page_faults=1, fs_read_count=2))
    names = [family.name for family in exposed.restricted_registry(["page_faults"]).collect() if family.samples]
    assert names == ["page_faults"]


def test_rendered_lines_are_the_same_samples() -> None:
    """What was rendered when the report came in reads back to what was sent, and absent stays absent."""
    whole = report("n-1", **{name: index + 0.5 for index, name in enumerate(FAMILIES)})
    partial = report("n-2", page_faults=2**64 - 1)
    for one in (whole, partial):
        parsed = samples(parse_text(b"".join(one.lines).decode()))
        expected = {
            (name, one.node_id): value for name, value in zip(FAMILIES, one.values, strict=True) if value is not None
        }
        assert parsed == expected | {(LAST_REPORT, one.node_id): NOW}
    assert [bool(line) for line in partial.lines] == [False, True, *[False] * 6, True, False, False]
    assert partial.lines[1] == b'page_faults{node_id="n-2"} 18446744073709551615\n'


def test_the_delay_of_reports_that_carry_a_timestamp() -> None:
    """Arrival by our clock minus the timestamp by the node's: negative for a clock that is ahead; else no sample."""
    late = report("late", timestamp=NOW - 7.25, **dict.fromkeys(FAMILIES, 1))
    ahead = report("ahead", timestamp=NOW + 30.5)
    assert late.lines[-2] == b'orchestrator_node_report_delay_seconds{node_id="late"} 7.25\n'
    assert ahead.lines[-2] == b'orchestrator_node_report_delay_seconds{node_id="ahead"} -30.5\n'
    exposed = registry(BUILT_IN, body("late", timestamp=NOW - 7.25), body("ahead", timestamp=NOW + 30.5), body("mute"))
    (delays,) = [family for family in exposed.collect() if family.name == REPORT_DELAY]
    assert samples([delays]) == {(REPORT_DELAY, "late"): 7.25, (REPORT_DELAY, "ahead"): -30.5}


def test_how_nodes_are_measured() -> None:
    """Is a sample of the nodes that say so, the same in the collector and in the rendered lines; else there is none."""
    said: dict[str, Any] = {"source": "procfs", "interval_seconds": 120, "profiler_version": "1.0"}
    exposed = registry(BUILT_IN, body("a", page_faults=1, **said), body("mute", page_faults=1), body("b", source="x"))
    (info,) = [family for family in exposed.collect() if family.name == NODE_INFO]
    rendered = [report("a", **said), report("mute"), report("b", source="x")]
    parsed = [
        sample
        for family in parse_text(b"".join(line for one in rendered for line in one.lines).decode())
        for sample in family.samples
        if sample.name == NODE_INFO
    ]
    for found in (info.samples, parsed):
        assert [(sample.labels, sample.value) for sample in found] == [
            ({"node_id": "a", "source": "procfs", "interval": "120", "version": "1.0"}, 1),
            ({"node_id": "b", "source": "x", "interval": "", "version": ""}, 1),
        ]


def test_without_the_nodes_families() -> None:
    """The orchestrator's own are all there is, whatever is in the table; and nothing is rendered for it."""
    own = CollectorRegistry()
    own.register(Metrics().telemetry)
    exposition = Exposition(BUILT_IN, own, nodes=False)
    assert list(exposition.parts(generate_latest, [])) == [generate_latest(own)]
    assert unrendered("n", (1.0,), NOW, NOW) == ()
    decoded = ReportDecoder(BUILT_IN, unrendered).decode(body("n", page_faults=1), NOW).reports[0]
    assert (decoded.values[1], decoded.lines) == (1, ())

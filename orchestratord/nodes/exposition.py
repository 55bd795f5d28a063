"""The Prometheus exposition of the nodes: the samples as text, and a collector for prometheus_client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestratord.nodes.families import LAST_REPORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry, Metric

    from orchestratord.nodes.families import Families, Family
    from orchestratord.nodes.provenance import Provenance
    from orchestratord.nodes.store import Entry

#: A function of prometheus_client that returns the exposition of a registry.
Encoder = Callable[[Collector], bytes]

#: Help and names of the families that are made for each node, beside those in its reports.
LAST_REPORT_HELP = "When the node's latest report arrived, in Unix seconds."
REPORT_DELAY = "orchestrator_node_report_delay_seconds"
REPORT_DELAY_HELP = (
    "From the timestamp in the node's latest report, by the node's clock, to its arrival, by ours, in seconds;"
    " below 0 the node's clock is ahead. Only for reports that carry a timestamp."
)
NODE_INFO = "orchestrator_node_info"
NODE_INFO_HELP = (
    "Always 1; the labels say by what source the node is measured, over how many seconds, and the profiler's version."
    " Only for nodes whose reports say one of them."
)


class SampleRenderer:
    """Renders the samples of a report as lines of the text exposition, once, when the report arrives.

    The lines are the same in text 0.0.4, text 1.0.0 and OpenMetrics 1.0. A node id needs no escaping: see
    `report.NodeId`.
    """

    def __init__(self, families: Families) -> None:
        self._names = (*families.names, LAST_REPORT)
        #: One `%` operation and one split for all lines take 2.5 us, a third of one format call for each line.
        self._template = "".join(f'{name}{{node_id="%s"}} %r\n' for name in self._names)

    def __call__(
        self,
        node_id: str,
        values: tuple[float | None, ...],
        received_at: float,
        timestamp: float | None = None,
        provenance: Provenance | None = None,
    ) -> tuple[bytes, ...]:
        """Return one line for each family, and three more: time of arrival, delay, provenance.

        A line without a value is empty, as the delay's line of a report without a timestamp.
        """
        arrived = round(received_at, 3)
        delay = b""
        if timestamp is not None:
            delay = f'{REPORT_DELAY}{{node_id="{node_id}"}} {report_delay(received_at, timestamp)!r}\n'.encode()
        info = b""
        if provenance is not None:
            info = f'{NODE_INFO}{{node_id="{node_id}",{provenance.labels}}} 1.0\n'.encode()
        if None in values:
            return (
                *(
                    b"" if value is None else f'{name}{{node_id="{node_id}"}} {value!r}\n'.encode()
                    for name, value in zip(self._names, (*values, arrived), strict=True)
                ),
                delay,
                info,
            )
        fields: list[object] = []
        for value in values:
            fields += (node_id, value)
        text = self._template % (*fields, node_id, arrived)
        return (*text.encode().splitlines(keepends=True), delay, info)


def unrendered(
    node_id: str,
    values: tuple[float | None, ...],
    received_at: float,
    timestamp: float | None = None,
    provenance: Provenance | None = None,
) -> tuple[bytes, ...]:
    """Render nothing: for a daemon that does not expose the nodes' families."""
    del node_id, values, received_at, timestamp, provenance
    return ()


class NodeCollector(Collector):
    """The fresh nodes' families, for a registry of prometheus_client. For any thread.

    `snapshot` returns the entries that are fresh now.
    """

    def __init__(self, families: Families, snapshot: Callable[[], list[Entry]]) -> None:
        self._families = families
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples, which prometheus_client needs to filter by `name[]`."""
        yield from _families(self._families)

    def collect(self) -> Iterator[Metric]:
        """Return the families with a sample for each fresh node that reported them."""
        entries = self._snapshot()
        for index, family in enumerate(self._families):
            metric = _metric(family)
            for entry in entries:
                value = entry.report.values[index]
                if value is not None:
                    metric.add_metric([entry.report.node_id], value)
            yield metric
        last_report = _last_report()
        for entry in entries:
            last_report.add_metric([entry.report.node_id], round(entry.report.received_at, 3))
        yield last_report
        delays = _report_delay()
        for entry in entries:
            report = entry.report
            if report.timestamp is not None:
                delays.add_metric([report.node_id], report_delay(report.received_at, report.timestamp))
        yield delays
        info = _node_info()
        for entry in entries:
            provenance = entry.report.provenance
            if provenance is not None:
                info.add_metric([entry.report.node_id, *provenance.label_values], 1)
        yield info


class Exposition:
    """Joins the lines that were rendered when the reports arrived, family by family.

    The bytes are those of prometheus_client's encoder for the same table, in a thirtieth of the time. `own` has the
    orchestrator's own metrics, which come last; without `nodes` the exposition has nothing else.
    """

    def __init__(self, families: Families, own: CollectorRegistry, *, nodes: bool = True) -> None:
        self._families = families
        self._own = own
        #: Whether the nodes' families are in it. If not, the caller needs no entries.
        self.nodes = nodes

    def parts(self, encoder: Encoder, blocks: Sequence[Sequence[Entry]]) -> Iterator[bytes]:
        """Return the exposition of these entries in parts; each part takes well under a millisecond.

        `encoder` is prometheus_client's for text 0.0.4, text 1.0.0 or OpenMetrics 1.0. A sample is the same line in all
        three.
        """
        for index, family in enumerate(_families(self._families) if self.nodes else ()):
            yield _head(encoder, family)
            for block in blocks:
                yield b"".join([entry.report.lines[index] for entry in block])
        yield encoder(self._own)


def report_delay(received_at: float, timestamp: float) -> float:
    """Return the seconds from a report's timestamp to its arrival, rounded to milliseconds; both are Unix times."""
    return round(received_at - timestamp, 3)


class _Single(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _head(encoder: Encoder, family: Metric) -> bytes:
    """Return a family's HELP, TYPE and UNIT lines."""
    return encoder(_Single(family)).removesuffix(b"# EOF\n")


def _metric(family: Family) -> GaugeMetricFamily | CounterMetricFamily:
    # A unit is given only where the name ends with it: prometheus_client would append it to any other name.
    base = family.name.removesuffix("_total")
    unit = family.unit if family.unit and base.endswith(f"_{family.unit}") else ""
    if family.kind == "counter":
        return CounterMetricFamily(base, family.help, labels=["node_id"], unit=unit)
    return GaugeMetricFamily(base, family.help, labels=["node_id"], unit=unit)


def _families(families: Families) -> Iterator[Metric]:
    """Return the families that have a sample for each node, without samples, in the order of a report's lines."""
    yield from (_metric(family) for family in families)
    yield _last_report()
    yield _report_delay()
    yield _node_info()


def _last_report() -> GaugeMetricFamily:
    return GaugeMetricFamily(LAST_REPORT, LAST_REPORT_HELP, labels=["node_id"], unit="seconds")


def _report_delay() -> GaugeMetricFamily:
    return GaugeMetricFamily(REPORT_DELAY, REPORT_DELAY_HELP, labels=["node_id"], unit="seconds")


def _node_info() -> GaugeMetricFamily:
    return GaugeMetricFamily(NODE_INFO, NODE_INFO_HELP, labels=["node_id", "source", "interval", "version"])

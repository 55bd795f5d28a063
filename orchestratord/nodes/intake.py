"""From a body of reports to the table: decoded, checked, stored and counted, the same on every path of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from orchestratord.errors import Fault, Forbidden, NoFamily
from orchestratord.nodes.report_decoder import is_batch, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.report_decoder import Decoded, ReportDecoder
    from orchestratord.nodes.store import NodeStore, Updated
    from orchestratord.runtime.clock import Clocks
    from orchestratord.runtime.time_slices import TimeSlices
    from orchestratord.telemetry.self_metrics import SelfMetrics

log = Logger()

#: Nodes that are named in the log when they first report, in a second.
LOGGED_EACH_SECOND = 10


class ReportIntake:
    """Takes bodies of reports into `nodes`: all reports of a body or none.

    A body is unpacked already, and its length is bounded by the caller. `node` is the only node that the body may
    report, None if it may report any. Belongs to the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        decoder: ReportDecoder,
        nodes: NodeStore,
        telemetry: SelfMetrics,
        clocks: Clocks,
        *,
        slices: TimeSlices,
    ) -> None:
        self._decoder = decoder
        self._nodes = nodes
        self._telemetry = telemetry
        self._clocks = clocks
        self._slices = slices
        self._first_reports = FirstReportLog(reactor)

    def take(self, body: bytes, node: str | None) -> tuple[Decoded, Updated]:
        """Store the reports of a short body at once; return what it held, and what became of its reports.

        Raises a Fault with nothing stored or counted: BadReport, BodyTooLarge, Forbidden or TableFull.
        """
        decoded = self._decoder.decode(body, self._clocks.time())
        if node is not None:
            _check_node(node, decoded.reports, body)
        return decoded, self._store(decoded)

    async def take_in_slices(self, body: bytes, node: str | None) -> tuple[Decoded, Updated]:
        """Do as `take` does, and let the reactor turn after every millisecond of decoding."""
        parts: list[Decoded] = []
        count = 0
        for part in self._decoder.decode_in_slices(body, self._clocks.time()):
            if node is not None:
                _check_node(node, part.reports, body, count)
            count += len(part.reports)
            parts.append(part)
            await self._slices.turn()
        decoded = joined(parts)
        return decoded, self._store(decoded)

    def count_refused(self, error: BaseException | None) -> None:
        """Count a body of which nothing was stored, by the reason."""
        if not isinstance(error, Fault):
            self._telemetry.reports("failed")
            return
        self._telemetry.reports(error.outcome)
        if isinstance(error, NoFamily):
            self._telemetry.unknown_metrics(len(error.names))

    def _store(self, decoded: Decoded) -> Updated:
        updated = self._nodes.update(decoded.reports, self._clocks.monotonic())
        if decoded.unknown_names:
            self._telemetry.unknown_metrics(decoded.unknown_names)
        if updated.accepted:
            self._telemetry.reports("accepted", updated.accepted)
        if updated.superseded:
            self._telemetry.reports("superseded", updated.superseded)
        if updated.new:
            self._first_reports.log(updated.new)
        return updated


def _check_node(node: str, reports: Sequence[NodeReport], body: bytes, first: int = 0) -> None:
    """Raise Forbidden if a report is of another node than `node`; `first` is the number of the first report."""
    for index, report in enumerate(reports, first):
        if report.node_id != node:
            where = f"$[{index}].node_id" if is_batch(body) else "$.node_id"
            raise Forbidden(f"the token's claim kubernetes.io/node/name is another: {node[:253]!a} - at {where}")


class FirstReportLog:
    """Logs the first report of each node, LOGGED_EACH_SECOND nodes at most; the other nodes are counted in one line."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._logged = 0
        self._unlogged = 0

    def log(self, node_ids: list[str]) -> None:
        """Log that these nodes report for the first time, or again after they were gone."""
        if not self._logged:
            self._reactor.callLater(1, self._next_second)
        for node_id in node_ids[: LOGGED_EACH_SECOND - self._logged]:
            log.info("node {node_id} reports for the first time", node_id=node_id)
        named = min(len(node_ids), LOGGED_EACH_SECOND - self._logged)
        self._logged += named
        self._unlogged += len(node_ids) - named

    def _next_second(self) -> None:
        if self._unlogged:
            log.info("{count} more nodes report for the first time", count=self._unlogged)
        self._logged = self._unlogged = 0

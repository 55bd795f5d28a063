"""Remarks on a report that was stored but has a problem: to its client each time, and once in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from orchestratord.nodes.provenance import stale_warning
from orchestratord.nodes.unknown_names import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestratord.nodes.provenance import Provenance
    from orchestratord.nodes.report import NodeReport
    from orchestratord.nodes.report_decoder import Decoded

log = Logger()

#: Different names, and different intervals, that the process logs in its life.
MAX_LOGGED = 50
#: Warnings in one answer.
MAX_WARNINGS = 5


class ReportRemarks:
    """Finds problems of reports, and logs each different one once, at most MAX_LOGGED of them.

    `families` are the known names; `stale_after` is in seconds; `redacted` takes tokens out of what is logged.
    """

    def __init__(
        self, families: tuple[str, ...], stale_after: float, redacted: Callable[[bytes], bytes] = bytes
    ) -> None:
        self._families = families
        self._stale_after = stale_after
        self._redacted = redacted
        self._names: set[str] = set()
        self._intervals: set[float] = set()

    def about(self, decoded: Decoded) -> dict[str, Any]:
        """Return the answer's fields besides its counts: `ignored` names and `warnings`, each only if there are any."""
        remarks: dict[str, Any] = {}
        if decoded.ignored:
            self.log_ignored(decoded.ignored)
            remarks["ignored"] = decoded.ignored
        warnings = self._warnings(decoded.reports)
        if warnings:
            remarks["warnings"] = warnings
        return remarks

    def log_ignored(self, names: Iterable[str]) -> None:
        """Log the names that were not logged before."""
        for name in names:
            if name in self._names or len(self._names) > MAX_LOGGED:
                continue
            self._names.add(name)
            if len(self._names) > MAX_LOGGED:
                log.warn(
                    "more than {count} different unknown names came in reports; no more are logged", count=MAX_LOGGED
                )
                return
            meant = nearest(name, self._families)
            log.warn(
                "the name {name} in a report is not a metric family and is ignored{hint}",
                # A client may have put its token where a name belongs.
                name=ascii(self._redacted(name.encode()).decode(errors="replace")),
                hint=f"; did its profiler mean {meant}?" if meant else "",
            )

    def _warnings(self, reports: Sequence[NodeReport]) -> list[str]:
        warnings: dict[str, None] = {}
        last: Provenance | None = None
        for report in reports:
            provenance = report.provenance
            if provenance is last or provenance is None:
                continue
            last = provenance
            warning = stale_warning(provenance, self._stale_after)
            if warning is not None and len(warnings) < MAX_WARNINGS:
                warnings[warning] = None
                self._log_interval(report, provenance, warning)
        return list(warnings)

    def _log_interval(self, report: NodeReport, provenance: Provenance, warning: str) -> None:
        interval = provenance.interval
        if interval is None or interval in self._intervals or len(self._intervals) >= MAX_LOGGED:
            return
        self._intervals.add(interval)
        log.warn("node {node_id} and perhaps others: {warning}", node_id=report.node_id, warning=warning)

"""Sends reports for the simulated nodes, and enters into ledger and account how each was answered."""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING, Any

from tests.benchmarks import payloads
from tests.soak.client import NoAnswer
from tests.soak.ledger import Outcome, Report
from tests.soak.readings import values
from tests.soak.suspensions import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.account import Account
    from tests.soak.client import Answer, Connection
    from tests.soak.ledger import Ledger

#: Seconds for which a node waits for its answer.
PATIENCE = 30.0


class RetryingSender:
    """Sends reports over connections that it is given."""

    def __init__(self, ledger: Ledger, account: Account) -> None:
        self.ledger = ledger
        self.account = account

    def report(self, node: int, *, timestamp: float | None = None) -> tuple[Report, dict[str, Any]]:
        """Enter a node's next report; return it and what is to be sent."""
        report = self.ledger.sent(node, time.monotonic(), timestamp=timestamp)
        body: dict[str, Any] = {"node_id": payloads.node_id(node), **values(node, report.number)}
        if timestamp is not None:
            body["timestamp"] = timestamp
        return report, body

    async def post(
        self,
        connection: Connection,
        reports: Sequence[Report],
        body: Any,
        *,
        zipped: bool = False,
        closes: bool = False,
        due: int = 200,
    ) -> None:
        """Send the body that holds these reports, and enter how they ended; `due` is how it is to be answered."""
        request = post(body, zipped=zipped, closes=closes)
        account = self.account
        account.reports["sent"] += len(reports)
        began = time.monotonic()
        try:
            answer = await connection.ask(request, PATIENCE)
        except NoAnswer as error:
            self._unanswered(reports, error, began)
            return
        now = time.monotonic()
        account.report_times.add(now - began, calm=not account.suspensions.any(began, now))
        if answer.status == 200:
            account.stored(now)
        self._answered(reports, answer, due, began, now)

    async def delete(self, connection: Connection, node: int) -> None:
        """Have a node forgotten, and enter it."""
        report = self.ledger.sent(node, time.monotonic(), gone=True)
        request = payloads.get(f"/nodes/{payloads.node_id(node)}").replace(b"GET", b"DELETE", 1)
        try:
            answer = await connection.ask(request, PATIENCE)
        except NoAnswer as error:
            self._unanswered([report], error, report.sent)
            return
        outcome = Outcome.STORED if answer.status in {204, 404} else Outcome.REFUSED
        self.account.reports[f"deleted: {answer.status}"] += 1
        self.account.judged(self.ledger.ended(report, outcome, time.monotonic()))

    def _answered(self, reports: Sequence[Report], answer: Answer, due: int, began: float, now: float) -> None:
        account = self.account
        account.reports[str(answer.status)] += len(reports)
        if answer.status == 200:
            counts = json.loads(answer.body)
            superseded = counts["superseded"]
            if superseded not in {0, len(reports)} or counts["accepted"] + superseded != len(reports):
                account.breaks("a 200 says what was stored", f"{counts} for {len(reports)} reports")
            outcome = Outcome.SUPERSEDED if superseded else Outcome.STORED
            account.reports["superseded"] += superseded
        else:
            outcome = Outcome.REFUSED
            if answer.status != due and not self._excused(reports, answer.status, began, now):
                said = f"{len(reports)} from {reports[0]} were answered {answer.status} {answer.body[:200]!r}"
                account.breaks(Service.REPORTS.value, said)
        if due != 200 and answer.status == 200:
            account.breaks("what is no report is not answered 200", f"{reports[0]} was")
        for report in reports:
            account.judged(self.ledger.ended(report, outcome, now))

    def _unanswered(self, reports: Sequence[Report], error: NoAnswer, began: float) -> None:
        now = time.monotonic()
        why = "connection lost without an answer" if error.sent else "not connected"
        self.account.reports[why] += len(reports)
        said = f"{len(reports)} from {reports[0]} got no answer: {error}"
        self.account.unless(Service.REPORTS, began, now, Service.REPORTS.value, said)
        for report in reports:
            outcome = Outcome.UNKNOWN if error.sent else Outcome.REFUSED
            self.account.judged(self.ledger.ended(report, outcome, now))

    def _excused(self, reports: Sequence[Report], status: int, began: float, now: float) -> bool:
        """Return whether a report may be refused: while the daemon stops, or as a newcomer to a full table."""
        suspensions = self.account.suspensions
        if status == 429:
            known = all(self.ledger.holds(report.node, began, now) for report in reports)
            return not known and suspensions.covers(Service.NEWCOMERS, began, now)
        return status == 503 and suspensions.covers(Service.REPORTS, began, now)


def post(body: Any, *, zipped: bool = False, closes: bool = False) -> bytes:
    """Return a POST of this body to /update_metrics."""
    data = json.dumps(body).encode()
    if zipped:
        data = gzip.compress(data, 1)
    request = payloads.post("/update_metrics", data, close=closes)
    return request.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type", 1) if zipped else request

"""The source `auto`: the better source if it works, else the one that always works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

if TYPE_CHECKING:
    from orchestratord.profiler.bucket import Complaint, Delivery, Source

log = Logger()


class PreferredSource:
    """Measures with `preferred` until it complains, and with `fallback` from then on.

    It does not switch back while it runs. The sources do not count exactly the same, and numbers that change their
    meaning every few minutes are worse than coarse ones.
    """

    def __init__(self, preferred: Source, fallback: Source) -> None:
        self._preferred = preferred
        self._fallback = fallback
        self._current: Source | None = None
        self._left: Deferred[None] = succeed(None)

    @property
    def name(self) -> str:
        """The name of the source in use."""
        return "auto" if self._current is None else self._current.name

    def start(self, deliver: Delivery, complain: Complaint) -> None:
        """Start the preferred source; its first complaint starts the other."""

        def fall_back(reason: str) -> None:
            if self._current is not self._preferred:
                return
            log.info(
                "measuring with {fallback}, not {preferred}: {reason}",
                fallback=self._fallback.name,
                preferred=self._preferred.name,
                reason=reason,
            )
            self._current = self._fallback
            self._left = self._preferred.stop()
            self._fallback.start(deliver, complain)

        self._current = self._preferred
        self._preferred.start(deliver, fall_back)

    def stop(self) -> Deferred[None]:
        """Stop the source in use; fires when the other one has stopped too."""
        current, self._current = self._current, None
        return Deferred.fromCoroutine(self._end(current, self._left))

    async def _end(self, current: Source | None, left: Deferred[None]) -> None:
        if current is not None:
            await current.stop()
        await left

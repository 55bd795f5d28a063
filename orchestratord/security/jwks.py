"""An issuer's keys from a URL: fetched at the start, every ten minutes, and when a token names an unknown key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import treq
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from orchestratord import __version__
from orchestratord.security.jwt import parse_keys
from orchestratord.security.tls import readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from twisted.python.failure import Failure

    from orchestratord.security.jwt import SigningKey

    class KeyAgent(Protocol):
        """What is needed of `twisted.web.client.Agent`."""

        def request(self, method: bytes, uri: bytes, headers: Headers | None = None) -> Deferred[Any]:
            """Send a request; fires with the response when its headers are there."""
            ...


log = Logger()

#: Seconds for a whole fetch, between two fetches, and between two without a reason.
FETCH_SECONDS = 10.0
AT_MOST_EVERY = 30.0
REFRESH_EVERY = 600.0
#: Who we say we are.
AGENT = f"orchestratord/{__version__}"
#: What a key set may be. A kube-apiserver answers 406 to who takes application/json alone.
ACCEPT = b"application/jwk-set+json, application/json, */*;q=0.1"
#: Bytes of a key set.
MAX_KEY_SET = 262_144


class _Refused(Exception):
    """The answer is none that holds keys; the text says why."""


class KeySource(Service):
    """Fetches the keys at a URL and gives them to `use`; what it has goes on when a fetch fails.

    `agent` sends the requests; `token`, if there is one, gives the bearer token of each. Belongs to the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        use: Callable[[dict[str, SigningKey]], None],
        agent: KeyAgent,
        token: Callable[[], bytes] | None = None,
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._use = use
        self._agent = agent
        self._token = token
        self._began = float("-inf")
        self._fetching: Deferred[None] | None = None
        self._complaint: str | None = ""
        self._refresh = LoopingCall(self._fetch)
        self._refresh.clock = reactor

    def startService(self) -> None:
        """Fetch now, and from now on."""
        super().startService()
        self._refresh.start(REFRESH_EVERY)

    def stopService(self) -> None:
        """End what is under way."""
        super().stopService()
        if self._refresh.running:
            self._refresh.stop()
        if self._fetching is not None:
            self._fetching.cancel()

    def wanted(self) -> bool:
        """See to it that an unknown key is looked for; return whether it may yet turn up."""
        if self._fetching is None and self.running and self._reactor.seconds() >= self._began + AT_MOST_EVERY:
            self._fetch()
        # After a fetch that has failed nobody knows; after one that has not, it is no key of the issuer.
        return self._fetching is not None or self._complaint is not None

    def _fetch(self) -> None:
        if self._fetching is not None:
            return
        self._began = self._reactor.seconds()
        fetching = self._fetching = Deferred.fromCoroutine(self._exchange())
        fetching.addTimeout(
            FETCH_SECONDS, self._reactor, lambda *_: self._failed(f"no whole answer within {FETCH_SECONDS:g} s")
        )
        fetching.addErrback(self._went_wrong).addBoth(self._over)

    async def _exchange(self) -> None:
        headers = Headers({b"Accept": [ACCEPT], b"User-Agent": [AGENT.encode()]})
        if self._token is not None:
            headers.addRawHeader(b"Authorization", b"Bearer " + self._token())
        response = await self._agent.request(b"GET", self._url.encode(), headers)
        if response.code != 200:
            raise _Refused(f"it answers {response.code}")
        body = bytearray()

        def collect(part: bytes) -> None:
            body.extend(part)
            if len(body) > MAX_KEY_SET:
                raise _Refused(f"its answer is longer than {MAX_KEY_SET} bytes")

        await treq.collect(response, collect)
        try:
            keys = parse_keys(bytes(body))
        except ValueError as error:
            raise _Refused(f"its answer {error}") from None
        self._use(keys)
        if self._complaint is not None:
            log.info("{url} has {count} keys for report tokens", url=self._url, count=len(keys))
        self._complaint = None

    def _went_wrong(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            causes = getattr(failure.value, "reasons", None) or [failure]
            self._failed(" ".join(readable(causes[0].value).split())[:300])

    def _failed(self, reason: str) -> None:
        """Log a failure, once for each reason; none that a stop has caused."""
        if not self.running:
            return
        if reason != self._complaint:
            log.warn("no keys for report tokens from {url}: {reason}", url=self._url, reason=reason)
        self._complaint = reason

    def _over(self, _: object) -> None:
        self._fetching = None

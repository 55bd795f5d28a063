"""Fetches an issuer's keys from a URL: at the start, every ten minutes, and when a token names an unknown key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from orchestratord import __version__
from orchestratord.http_client.body import BodyCutOff, BodyOverLimit, read_body
from orchestratord.http_client.error_text import first_cause, readable
from orchestratord.runtime.periodic import Periodic
from orchestratord.security.jwt import parse_keys

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

#: Seconds for a whole fetch; least seconds from one fetch to one for an unknown key; seconds between regular fetches.
FETCH_SECONDS = 10.0
AT_MOST_EVERY = 30.0
REFRESH_EVERY = 600.0
#: The User-Agent of fetches.
AGENT = f"orchestratord/{__version__}"
#: The media types of key sets. A kube-apiserver answers 406 if Accept has application/json alone.
ACCEPT = b"application/jwk-set+json, application/json, */*;q=0.1"
#: Bytes of the largest key set.
MAX_KEY_SET = 262_144


class _Refused(Exception):
    """The answer has no usable keys; the text says why."""


class KeySource(Service):
    """Fetches the keys at a URL and passes them to `use`. When a fetch fails, the keys before it stay in use.

    `agent` sends the requests; `token`, if given, returns the bearer token for each. Belongs to the reactor thread.
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
        self._refresh = Periodic(reactor, REFRESH_EVERY, self._fetch, name="the fetch of keys for report tokens")

    def startService(self) -> None:
        """Begin to fetch, the first time now."""
        super().startService()
        self._refresh.start()

    def stopService(self) -> None:
        """Stop, and cancel the fetch under way."""
        super().stopService()
        self._refresh.stop()
        if self._fetching is not None:
            self._fetching.cancel()

    def wanted(self) -> bool:
        """Fetch the keys again for an unknown one, if the last fetch is old; return whether the key may be found."""
        if self._fetching is None and self.running and self._reactor.seconds() >= self._began + AT_MOST_EVERY:
            self._fetch()
        # After a failed fetch the key may exist; after a successful one the issuer has no such key.
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
        try:
            body = await read_body(response, MAX_KEY_SET, may_end_unmarked=True)
        except BodyOverLimit:
            raise _Refused(f"its answer is longer than {MAX_KEY_SET} bytes") from None
        except BodyCutOff:
            raise _Refused("its answer broke off") from None
        try:
            keys = parse_keys(body)
        except ValueError as error:
            raise _Refused(f"its answer {error}") from None
        self._use(keys)
        if self._complaint is not None:
            log.info("{url} has {count} keys for report tokens", url=self._url, count=len(keys))
        self._complaint = None

    def _went_wrong(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            reason = readable(first_cause(failure.value))  # type: ignore[arg-type]  # a Failure has one
            self._failed(" ".join(reason.split())[:300])

    def _failed(self, reason: str) -> None:
        """Log a failure, unless the last one had the same reason, or the service has stopped."""
        if not self.running:
            return
        if reason != self._complaint:
            log.warn("no keys for report tokens from {url}: {reason}", url=self._url, reason=reason)
        self._complaint = reason

    def _over(self, _: object) -> None:
        self._fetching = None

"""The routes that answer PromQL: from the request's parameters to the answer of a QueryClient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from orchestratord.errors import BadQuery
from orchestratord.promql.params import Query, arguments, memory, newest, parse, passed_through
from orchestratord.runtime.byte_cache import ByteCache
from orchestratord.web.server.responses import failure_body, method_not_allowed_body, whole_answer
from orchestratord.web.server.send_buffer import PIECE

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from orchestratord.promql.client import QueryClient
    from orchestratord.web.routes import Route
    from orchestratord.web.server.request import BoundedRequest

log = Logger()

_FORM = b"application/x-www-form-urlencoded"
#: Bytes of the parameters of a query that is cached; longer ones are parsed each time.
_MAX_REMEMBERED = 500
#: Bytes of the cache of parsed queries. FEW where each query goes to Prometheus, which takes fifty times as long as
#: parsing. MANY where memory answers: the cache must hold all queries of a scheduler's cycle, else none is found again.
FEW, MANY = 2_097_152, 33_554_432
#: Bytes of a character in UTF-8, at most.
_LONGEST_CHARACTER = 4
#: Bytes of a key besides its texts.
_KEY_BYTES = 200


class Queries:
    """Answers queries with what `client` fetches.

    `max_length` is in characters of a query; `remembered` is the size of the cache of parsed queries in bytes, FEW or
    MANY; `written_to` is whether reports are written to the store that answers.
    """

    def __init__(
        self, client: QueryClient, *, max_length: int, remembered: int = FEW, written_to: bool = False
    ) -> None:
        self._client = client
        self._written_to = written_to
        self._max_length = max_length
        #: Schedulers repeat their queries, and a look-up is faster than parsing.
        self._remembered: ByteCache[tuple[str, bytes, bytes], Query] = ByteCache(
            remembered, lambda key, query: _KEY_BYTES + len(key[1]) + len(key[2]) + memory(query)
        )

    async def answer(self, request: BoundedRequest, path: str) -> bytes:
        """Answer `/query`, or a read-only path of Prometheus' own API; raises a QueryFault."""
        return await self._fetch(request, self._read(path, _form(request), request.uri.partition(b"?")[2]))

    def at_once(self, path: str, query_string: bytes, *, closes: bool) -> bytes | None:
        """Return the whole answer, head and body, of a query that needs no Prometheus; None for others and long ones.

        Raises BadQuery.
        """
        answer = self._client.at_once(self._read(path, b"", query_string))
        if answer is None or len(answer.body) > PIECE:  # a long answer is written as fast as the client reads
            return None
        return whole_answer(answer.body, *answer.headers, closes=closes)

    def _read(self, path: str, form: bytes, url: bytes) -> Query:
        """Return the query of a form and a URL's parameters; short ones are cached."""
        if len(form) + len(url) > _MAX_REMEMBERED:
            return self._parsed(path, form, url)
        key = (path, form, url)
        query = self._remembered.get(key)
        if query is None:
            query = self._parsed(path, form, url)
            self._remembered.put(key, query)
        return query

    def _parsed(self, path: str, form: bytes, url: bytes) -> Query:
        # A form of 1 MiB takes 0.4 s to unpack. So many bytes come out of it at the least.
        escapes = form.count(b"%")
        if max(escapes, len(form) - 2 * escapes) > 2 * self._max_length * _LONGEST_CHARACTER:
            raise BadQuery(f"the parameters are longer than {2 * self._max_length} characters")
        args = arguments(form, url)
        if path == "/query":
            query = parse(args, max_length=self._max_length)
        else:
            query = passed_through(path, args, max_length=self._max_length)
        return newest(query) if self._written_to else query

    async def _fetch(self, request: BoundedRequest, query: Query) -> bytes:
        answer = await self._client.fetch(query)
        request.reservation = answer.reservation
        request.setResponseCode(answer.status)
        if answer.content_type:
            request.setHeader(b"Content-Type", answer.content_type)
            request.setHeader(b"Content-Length", b"%d" % len(answer.body))
        for name, value in answer.headers:
            request.setHeader(name, value)
        return answer.body


class QueryResource(Resource):
    """Answers one of `routes.QUERIES`."""

    isLeaf = True

    def __init__(self, queries: Queries, route: Route) -> None:
        super().__init__()
        self._queries = queries
        self._route = route

    def render(self, request: BoundedRequest) -> bytes | int:
        """Answer a request of any method."""
        if request.method not in {b"GET", b"HEAD", b"POST"}:
            return method_not_allowed_body(request, self._route.allowed)
        answering = Deferred.fromCoroutine(self._queries.answer(request, self._route.path))
        if not answering.called:
            request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addCallbacks(lambda body: _finish(request, body), lambda failure: _fail(request, failure)).addErrback(
            lambda failure: log.failure("a query could not be answered", failure)
        )
        return NOT_DONE_YET


def _finish(request: BoundedRequest, body: bytes) -> None:
    request.write(body)
    request.finish()


def _fail(request: BoundedRequest, failure: Failure) -> None:
    if not failure.check(CancelledError):
        _finish(request, failure_body(request, failure))


def _form(request: BoundedRequest) -> bytes:
    """Return the form that was posted, empty without one. Raises BadQuery."""
    if request.method != b"POST":
        return b""
    form = request.body()
    content_type = request.getHeader(b"content-type") or _FORM
    if form and content_type.split(b";", 1)[0].strip().lower() != _FORM:
        raise BadQuery(f"Content-Type of a POST must be {_FORM.decode()}")
    return form

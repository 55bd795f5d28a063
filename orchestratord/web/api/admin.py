"""The routes for operators and the kubelet: the probes, and DELETE of a node. On the main listeners or on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.errors import QueryFault, beside_queries
from orchestratord.web import routes
from orchestratord.web.server.responses import failure_body, text_body, unknown_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from twisted.python.failure import Failure

    from orchestratord.web.routes import Route
    from orchestratord.web.server.request import BoundedRequest

    #: What answers each route: it takes the request, and the parameters of the path by their names.
    Handlers = Mapping[Route, Callable[..., Any]]


class Admin:
    """The routes that can have a listener of their own. Belongs to the reactor thread.

    `forget` forgets a node, and returns whether a fresh one had that id. `unhealthy` and `unready` return the reason,
    or None while all is well.
    """

    def __init__(
        self,
        forget: Callable[[str], Awaitable[bool]],
        *,
        unhealthy: Callable[[], str | None],
        unready: Callable[[], str | None],
    ) -> None:
        self._forget = forget
        self._unhealthy = unhealthy
        self._unready = unready

    def handlers(self) -> Handlers:
        """Return what answers each route."""
        return {routes.HEALTHY: self.healthy, routes.READY: self.ready, routes.FORGET: self.forget}

    def failed(self, request: BoundedRequest, failure: Failure) -> bytes:
        """Answer what a handler has raised, and what has no handler, on a listener that has no other routes."""
        return failure_body(request, failure, see="here are /-/healthy, /-/ready and DELETE /nodes/<id>")

    def healthy(self, request: BoundedRequest) -> bytes:
        """Answer 200 while the process works, else 500 with the reason."""
        reason = self._unhealthy()
        return text_body(request, 500 if reason else 200, f"{reason or 'healthy'}\n")

    def ready(self, request: BoundedRequest) -> bytes:
        """Answer 200 while reports are accepted, else 503 with the reason."""
        reason = self._unready()
        return text_body(request, 503 if reason else 200, f"{reason or 'ready'}\n")

    async def forget(self, request: BoundedRequest, node_id: str) -> bytes:
        """Forget a node, for example one that was drained. Raises UnknownNode, or another Fault of the store."""
        try:
            forgotten = await self._forget(node_id)
        except QueryFault as fault:
            raise beside_queries(fault) from None
        if not forgotten:
            raise unknown_node(node_id)
        request.setResponseCode(204)
        return b""

"""Where twisted.web's tree of resources ends and Klein's routes begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure
from twisted.web.resource import Resource
from werkzeug.exceptions import NotFound

from orchestratord.web.server.responses import failure_body

if TYPE_CHECKING:
    from orchestratord.web.server.request import BoundedRequest


class KleinResource(Resource):
    """What is at `/` where a Klein application answers everything."""

    def __init__(self, application: Resource) -> None:
        super().__init__()
        self._application = application

    def getChildWithDefault(self, path: bytes, request: Any) -> Resource:
        """Return Klein, with the path as it was."""
        del path
        request.postpath.insert(0, request.prepath.pop())
        try:
            request.path.decode()
            b"/".join(request.postpath).decode()
        except UnicodeDecodeError:  # Klein would answer in HTML, and log a traceback
            return NoSuchPath()
        return self._application


class NoSuchPath(Resource):
    """404, whatever is asked."""

    isLeaf = True

    def render(self, request: BoundedRequest) -> bytes:
        """Answer as every other 404."""
        return failure_body(request, Failure(NotFound()))

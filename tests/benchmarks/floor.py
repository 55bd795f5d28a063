"""The floor: the least that a request can cost in twisted.web, and so the most that any service on it can do.

Started as `floor.py PORT`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

if TYPE_CHECKING:
    from twisted.web.http import Request

BODY = b'{"status":"Metrics updated","accepted":1,"superseded":0}'


class Constant(Resource):
    """Answers every request with the same bytes."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Answer."""
        request.setHeader(b"Content-Type", b"application/json")
        return BODY


class SilentSite(Site):
    """A site that does not format an access log line for each request."""

    def log(self, request: Request) -> None:
        """Do nothing."""


if __name__ == "__main__":
    site: Any = SilentSite(Constant(), parsePOSTFormSubmission=False)
    reactor.listenTCP(int(sys.argv[1]), site, interface="127.0.0.1")
    reactor.run()

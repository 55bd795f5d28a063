"""The URL of this daemon as a client sees it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestratord.web.server.request import BoundedRequest

#: A host and an optional port. No character needs a quote, in a shell or in HTML.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


def address_of(request: BoundedRequest) -> str:
    """Return the URL by the Host header, or by the local address of the connection if the header is not valid."""
    scheme = "https" if request.isSecure() else "http"
    given = request.requestHeaders.getRawHeaders(b"Host") or [b""]
    host = given[0].decode("latin-1")
    if len(given) == 1 and _HOST.match(host):
        return f"{scheme}://{host}"
    here = request.getHost()
    name = str(getattr(here, "host", "127.0.0.1"))
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{getattr(here, 'port', 5000)}"

"""The plain proxy to Prometheus: Klein and `treq.get`, as their documentation has them.

Started as `plain_proxy.py PORT PROMETHEUS_URL`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import treq
from klein import Klein

if TYPE_CHECKING:
    from twisted.web.iweb import IRequest

app = Klein()


@app.route("/query")
async def query(request: IRequest) -> bytes:
    """Pass a query on."""
    parameters = {"query": request.args[b"q"][0].decode()}
    response = await treq.get(f"{sys.argv[2]}/api/v1/query", params=parameters)
    request.setHeader(b"Content-Type", b"application/json")
    body: bytes = await response.content()
    return body


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]))

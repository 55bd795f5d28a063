"""What the real peers refuse, for the fakes that stand for them: a fake that takes everything hides our mistakes.

`tests/integration/test_peers.py` and `test_kubernetes.py` ask the real servers the same. Of remote write they are laxer
here than elsewhere: its rules are those of the specification, which Prometheus 3 keeps (415) and 2.42 does not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The paths of Prometheus that take GET alone, and those that take a form as well.
_GET_ALONE = re.compile(rb"/api/v1/(metadata|rules|alerts|status/buildinfo|label/[^/]+/values)")
_TAKES_FORM = re.compile(rb"/api/v1/(query|query_range|query_exemplars|series|labels|format_query)")
FORM = b"application/x-www-form-urlencoded"


def refusal(method: bytes, path: bytes, content_type: bytes | None) -> int | None:
    """Return the status with which Prometheus refuses a request to its API, or None; `path` is without the prefix.

    A form of another content type is not read: the query is missing then.
    """
    takes_form = _TAKES_FORM.fullmatch(path) is not None
    if not takes_form and not _GET_ALONE.fullmatch(path):
        return 404
    if method not in ({b"GET", b"POST"} if takes_form else {b"GET"}):
        return 405
    if method == b"POST" and (content_type or b"").partition(b";")[0].strip().lower() != FORM:
        return 400
    return None


def jwks_refusal(method: str, path: str, accept: str | None) -> int | None:
    """Return the status with which a kube-apiserver refuses a request for its keys, or None."""
    if path != "/openid/v1/jwks":
        return 404
    if method != "GET":
        return 405
    kinds = {part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")}
    return None if kinds & {"*/*", "application/*", "application/jwk-set+json"} else 406


def remote_write_refusal(method: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> int | None:
    """Return the status with which a remote-write 1.0 receiver refuses a request, or None; names in lower case."""
    if not path.endswith((b"/api/v1/write", b"/api/v1/push")):
        return 404
    if method != b"POST":
        return 405
    if headers.get(b"content-encoding") != b"snappy":
        return 415
    if headers.get(b"content-type") != b"application/x-protobuf":
        return 415
    return None if headers.get(b"x-prometheus-remote-write-version", b"").startswith(b"0.1.") else 400


def report_refusal(method: bytes, path: bytes, content_type: bytes | None) -> int | None:
    """Return the status with which the orchestrator refuses a report before it is read, or None."""
    if path != b"/update_metrics":
        return 404
    if method != b"POST":
        return 405
    return None if (content_type or b"").partition(b";")[0].strip().lower() == b"application/json" else 415

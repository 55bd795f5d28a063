"""Any parameters: a query that may go upstream comes out, or BadQuery, and nothing else.

The first byte says for which route they are; a line feed parts a form from a URL's parameters.
"""

from __future__ import annotations

import math
from urllib.parse import parse_qsl, urlencode

from orchestratord.errors import BadQuery
from orchestratord.promql.params import MAX_POINTS, Query, arguments, parse, parse_duration, parse_time, passed_through

#: Characters of a query.
LIMIT = 1000


def check(data: bytes) -> None:
    """Fail unless the parameters are read or refused."""
    route, (form, _, url) = data[:1], data[1:].partition(b"\n")
    try:
        args = arguments(form, url)
        query = parse(args, max_length=LIMIT) if route == b"q" else passed_through("/api/v1/x", args, max_length=LIMIT)
    except BadQuery as fault:
        assert str(fault).isprintable()
        assert len(str(fault)) < 1000
        return
    assert query.timeout is None or 0 < query.timeout < math.inf
    assert tuple(parse_qsl(urlencode(query.params), keep_blank_values=True, errors="strict")) == query.params
    assert all(len(value) <= LIMIT for _, value in query.params)
    if route == b"q":
        _is_checked(query)


def _is_checked(query: Query) -> None:
    params = dict(query.params)
    assert len(params) == len(query.params)
    assert params.pop("query")
    params.pop("timeout", None)
    if query.path == "/api/v1/query":
        assert params.keys() <= {"time"}
        assert all(math.isfinite(parse_time(value)) for value in params.values())
    else:
        assert query.path == "/api/v1/query_range"
        assert params.keys() == {"start", "end", "step"}
        seconds = parse_time(params["end"]) - parse_time(params["start"])
        assert 0 <= seconds < (MAX_POINTS + 1) * parse_duration(params["step"])

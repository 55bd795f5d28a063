"""What schemathesis, which runs as a program of its own, must know of the API beyond its description."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import schemathesis
from hypothesis import strategies as st

_NAMES = st.sampled_from(["page_faults", "mem_bytes_allocated", "up", "orchestrator_nodes", "no_such_metric"])
_MATCHERS = st.sampled_from(["", '{node_id="node-1"}', '{node_id=~"node-.*"}', '{node_id!="a",job=""}'])
_SELECTORS = st.tuples(_NAMES, _MATCHERS).map("".join)
_PROMQL = st.recursive(
    _SELECTORS | st.sampled_from(["1", "time()", '"text"', "up[1m]"]),
    lambda inner: st.tuples(
        st.sampled_from(["sum({})", "rate({}[1m])", "topk(3, {})", "-({})", "{} > 0", "avg by (node_id) ({})"]), inner
    ).map(lambda pair: pair[0].replace("{}", pair[1])),
    max_leaves=3,
)

schemathesis.openapi.format("promql", _PROMQL)
schemathesis.openapi.format("promql-selector", _SELECTORS)


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """Keep timestamps out of the future, which the schema cannot: it does not know the time."""
    for report in body if isinstance(body, list) else [body]:
        if isinstance(report, dict) and isinstance(report.get("timestamp"), int | float):
            report["timestamp"] = min(report["timestamp"], time.time())
    return body


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Pack what says that it is packed."""
    packed = case.operation.path == "/update_metrics" and case.headers.get("Content-Encoding") == "gzip"
    if packed and isinstance(case.body, dict | list):
        kwargs["data"] = gzip.compress(json.dumps(case.body).encode())

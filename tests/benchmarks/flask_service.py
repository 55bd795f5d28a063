"""The baseline: what a team would write in an afternoon to keep the nodes' metrics for Prometheus."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request  # type: ignore[import-not-found,unused-ignore]  # in the extra 'bench'
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

NAMES = (
    "mem_bytes_allocated",
    "page_faults",
    "ctx_switches_graceful",
    "ctx_switches_forced",
    "fs_read_count",
    "fs_read_size_kb",
    "fs_write_count",
    "fs_write_size_kb",
)

app = Flask(__name__)
gauges = {name: Gauge(name, name.replace("_", " "), ["node_id"]) for name in NAMES}


@app.post("/update_metrics")  # type: ignore[untyped-decorator,unused-ignore]
def update_metrics() -> dict[str, Any]:
    """Take a report."""
    report = request.get_json()
    for name, gauge in gauges.items():
        gauge.labels(node_id=report["node_id"]).set(report[name])
    return {"status": "Metrics updated"}


@app.get("/metrics")  # type: ignore[untyped-decorator,unused-ignore]
def metrics() -> Response:
    """Answer a scrape."""
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)

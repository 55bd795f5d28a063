"""From Settings to what runs beside the daemon on one machine: an embedded Prometheus, and the profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.profiler.agent import ProfilerSettings, host_node_id, profiler_service
from orchestratord.promql.embedded_prometheus import EmbeddedPrometheus, find_programs, prepare
from orchestratord.security.gate import Role

if TYPE_CHECKING:
    from twisted.application.service import Service

    from orchestratord.config.settings import Settings
    from orchestratord.security.gate_service import GateService


def make_embedded(reactor: Any, settings: Settings, address: str) -> EmbeddedPrometheus:
    """Return a Prometheus that will serve on `address`, HOST:PORT. Raises EmbeddedError."""
    programs = find_programs(settings.prometheus_binary)
    return EmbeddedPrometheus(reactor, programs, prepare(settings.data_dir), address, settings.prometheus_retention)


def make_profiler(reactor: Any, gate_service: GateService, orchestrator: str) -> Service:
    """Return the profiler of this machine, which reports to `orchestrator`, HOST:PORT. Raises FilesError."""
    settings = ProfilerSettings(
        orchestrator=f"http://{orchestrator}",
        node_id=host_node_id(),
        token_file=gate_service.path(Role.REPORT),
    )
    return profiler_service(reactor, settings)

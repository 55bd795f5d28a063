"""The frozen `Settings`, and the error for settings that are wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestratord.config.values import EMBEDDED

if TYPE_CHECKING:
    from pathlib import Path

    from orchestratord.config.values import Expose
    from orchestratord.nodes.families import Families
    from orchestratord.promql.params import Mode
    from orchestratord.security.gate import Role


class SettingsError(ValueError):
    """A setting is wrong: one line that names where it was given, its value, and what it should be."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Durations are in seconds, sizes in bytes; see OPTIONS for what each means."""

    listen: tuple[str, ...]
    admin_listen: tuple[str, ...]
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    prometheus: tuple[str, ...]
    prometheus_header: tuple[tuple[str, str], ...]
    prometheus_ca: Path | None
    prometheus_certificate: Path | None
    prometheus_key: Path | None
    prometheus_token_file: Path | None
    prometheus_basic_auth_file: Path | None
    remote_write: str | None
    remote_write_header: tuple[tuple[str, str], ...]
    remote_write_ca: Path | None
    remote_write_certificate: Path | None
    remote_write_key: Path | None
    remote_write_token_file: Path | None
    remote_write_basic_auth_file: Path | None
    remote_write_timeout: float
    remote_write_delay: float
    external_label: tuple[tuple[str, str], ...]
    expose_nodes: Expose
    spool_sync: float
    spool_max_bytes: int
    prometheus_binary: str
    prometheus_retention: str
    stale_after: float
    expire_every: float
    query_timeout: float
    max_queries: int
    query_queue: int
    query_cache: float
    latest_from_memory: Mode
    max_query_length: int
    max_answer_bytes: int
    max_answers_bytes: int
    max_nodes: int
    max_report_bytes: int
    max_batch: int
    max_arriving_bytes: int
    max_connections: int
    request_timeout: float
    idle_timeout: float
    answer_timeout: float
    drain_delay: float
    drain_timeout: float
    token_file: tuple[tuple[Role, Path], ...]
    report_oidc_jwks: str | None
    report_oidc_issuer: str | None
    report_oidc_audience: str | None
    report_oidc_ca: Path | None
    report_oidc_token_file: Path | None
    data_dir: Path
    snapshot_every: float
    all_in_one: bool
    access_log: bool
    families: Families

    @property
    def embedded(self) -> bool:
        """Whether the daemon starts a Prometheus of its own."""
        return self.prometheus == (EMBEDDED,)

    @property
    def nodes_exposed(self) -> bool:
        """Whether the nodes' families are in /metrics."""
        return self.expose_nodes == "always" or (self.expose_nodes == "auto" and self.remote_write is None)

    @property
    def listeners(self) -> tuple[str, ...]:
        """Every endpoint description; those of --admin-listen come last."""
        return self.listen + self.admin_listen

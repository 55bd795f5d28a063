"""The options: for each its name, default, help, check, and where the user may give it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestratord.config.values import (
    Expose,
    base_url,
    endpoint,
    file_path,
    header,
    key_set,
    label,
    off_or_seconds,
    one_of,
    remote_write_url,
    retention,
    seconds,
    some_text,
    switch,
    token_file,
    whole,
)
from orchestratord.promql.params import Mode

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Option:
    """A setting as the user sees it.

    An everyday option is `--NAME`, `ORCHESTRATOR_NAME` and the TOML key NAME. One whose name has a dot, such as
    `limits.max_batch`, is a key of a TOML table and the variable `ORCHESTRATOR_LIMITS_MAX_BATCH`, and not a flag.

    `check` takes what the user gave, a string or a TOML value, and returns what Settings holds; it raises ValueError
    with what the value must be. `separator` is a regular expression that splits an environment variable into the values
    of a repeatable option. `field` is the field of Settings; empty: derived from the name.
    """

    name: str
    check: Callable[[Any], Any]
    default: Any
    help: str
    separator: str | None = None
    field: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether the option is on the command line."""
        return "." not in self.name

    @property
    def is_switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.check is switch

    @property
    def shown(self) -> str:
        """The option as it is named in messages and documents."""
        return f"--{self.name}" if self.is_flag else self.name

    @property
    def repeatable(self) -> bool:
        """Whether the option may be given more than once."""
        return self.separator is not None

    @property
    def attribute(self) -> str:
        """The field of Settings."""
        return self.field or self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "ORCHESTRATOR_" + re.sub(r"[-.]", "_", self.name).upper()


_WORDS = r"\s+"
_LINES = r"\s*\n\s*"

#: The options of the command line by their headings in `--help`, the everyday ones first.
GROUPS: dict[str, tuple[Option, ...]] = {
    "Listening": (
        Option(
            "listen",
            endpoint,
            ("tcp:5000",),
            "Twisted endpoint description to serve on: tcp:5000 for IPv4 and IPv6, tls:tcp:5443 for TLS,"
            " tcp:5000:interface=127.0.0.1 for one address",
            _WORDS,
        ),
        Option(
            "admin-listen",
            endpoint,
            (),
            "endpoint description for the probes and DELETE /nodes/<id>, which are then served only there",
            _WORDS,
        ),
        Option("access-log", switch, False, "log every request, and why a report was refused"),
    ),
    "Prometheus": (
        Option(
            "prometheus",
            base_url,
            ("http://127.0.0.1:9090",),
            "base URL of a Prometheus for queries; several are tried in order; 'embedded' starts and supervises one",
            r"[\s,]+",
        ),
        Option("query-timeout", seconds(0.1, 600), 10.0, "seconds for a whole request to Prometheus"),
        Option("query-cache", seconds(0, 3600), 0.0, "seconds for which an answer is cached; 0 turns the cache off"),
        Option(
            "latest-from-memory",
            one_of(Mode),
            "never",
            "answer plain selectors of the latest value from memory: never, fallback (no Prometheus) or always",
        ),
        Option("max-queries", whole(1, 100_000), 256, "most queries in flight; more wait in a queue"),
    ),
    "Nodes": (
        Option("stale-after", seconds(0.1, 86400), 60.0, "seconds without a report after which a node is stale"),
        Option("max-nodes", whole(1, 10_000_000), 150_000, "most nodes in memory"),
        Option(
            "expose-nodes",
            one_of(Expose),
            "auto",
            "whether /metrics has the nodes' metric families: always, never, or auto (not with --remote-write)",
        ),
        Option(
            "data-dir", file_path, None, "folder for the snapshot of the nodes, the spool, and the embedded Prometheus"
        ),
        Option(
            "snapshot-every",
            off_or_seconds(0.1, 3600),
            10.0,
            "seconds between snapshots of the nodes, which a restart reads; 0 turns them off",
        ),
    ),
    "Who may do what": (
        Option(
            "token-file",
            token_file,
            (),
            "ROLE=PATH: file of bearer tokens; the role (report, query, scrape or admin) then requires one of them",
            _WORDS,
        ),
    ),
    "Remote write": (
        Option(
            "remote-write",
            remote_write_url,
            None,
            "URL of a remote-write receiver that gets every report; /nodes is then answered from --prometheus",
        ),
        Option("external-label", label, (), "name=value: a label that every delivered series gets", _LINES),
        Option(
            "spool-max-bytes",
            whole(1_048_576, 2**50),
            1_073_741_824,
            "most bytes of reports that wait for the receiver; above that the oldest are dropped",
        ),
    ),
    "Limits": (
        Option("max-connections", whole(1, 10_000_000), 16_384, "most connections of clients; more are refused"),
        Option("max-report-bytes", whole(64, 2**30), 1_048_576, "most bytes of a request's body, unpacked"),
        Option("max-batch", whole(1, 1_000_000), 10_000, "most reports in one batch"),
        Option("request-timeout", seconds(0.1, 600), 30.0, "seconds in which a whole request must arrive"),
        Option("idle-timeout", seconds(0.1, 86400), 60.0, "seconds that a keep-alive connection may be idle"),
        Option("answer-timeout", seconds(0.1, 86400), 60.0, "seconds in which a client must read an answer"),
    ),
    "Stopping": (
        Option("drain-delay", seconds(0, 600), 0.0, "seconds from not ready to closed ports, at a stop"),
        Option("drain-timeout", seconds(0, 600), 15.0, "seconds that requests in flight get to finish"),
    ),
    "One machine": (
        Option("all-in-one", switch, False, "also start a Prometheus and a profiler of this machine"),
        Option("prometheus-binary", some_text, "prometheus", "program that '--prometheus embedded' starts"),
        Option("prometheus-retention", retention, "24h", "how long the embedded Prometheus keeps its data"),
    ),
}


def _http_options(table: str, prefix: str, peer: str) -> tuple[Option, ...]:
    """Return the keys of a table for requests to a peer; Prometheus' own files have the same names."""
    return (
        Option(f"{table}.headers", header, (), f"'Name: value' in every request to {peer}", _LINES, f"{prefix}_header"),
        Option(
            f"{table}.ca_file",
            file_path,
            None,
            "PEM file of authorities, instead of the system's",
            field=f"{prefix}_ca",
        ),
        Option(
            f"{table}.cert_file",
            file_path,
            None,
            "PEM file of a client certificate and its chain",
            field=f"{prefix}_certificate",
        ),
        Option(f"{table}.key_file", file_path, None, "PEM file of its private key", field=f"{prefix}_key"),
        Option(f"{table}.credentials_file", file_path, None, "file with a bearer token", field=f"{prefix}_token_file"),
        Option(
            f"{table}.basic_auth_file", file_path, None, "file with user:password", field=f"{prefix}_basic_auth_file"
        ),
    )


#: Options that few users need: keys of tables in the TOML file, and environment variables.
TABLES = (
    Option(
        "tls.cert_file",
        file_path,
        None,
        "PEM file of the certificate of the tls: listeners and its chain",
        field="tls_certificate",
    ),
    Option("tls.key_file", file_path, None, "PEM file of its private key", field="tls_key"),
    Option(
        "tls.client_ca_file",
        file_path,
        None,
        "PEM file of authorities; clients of tls: listeners need a certificate signed by one",
        field="tls_client_ca",
    ),
    *_http_options("prometheus_http", "prometheus", "Prometheus"),
    *_http_options("remote_write_http", "remote_write", "the receiver"),
    Option(
        "remote_write_http.timeout",
        seconds(0.1, 600),
        10.0,
        "seconds for a whole request to the receiver",
        field="remote_write_timeout",
    ),
    Option(
        "remote_write_http.batch_delay",
        seconds(0.01, 0.5),
        0.1,
        "seconds that a report waits, to be sent together with others",
        field="remote_write_delay",
    ),
    Option(
        "oidc.jwks",
        key_set,
        None,
        "file or URL of the keys that verify reports' tokens (JWTs)",
        field="report_oidc_jwks",
    ),
    Option("oidc.issuer", some_text, None, "issuer that such a token must name", field="report_oidc_issuer"),
    Option("oidc.audience", some_text, None, "audience that such a token must be for", field="report_oidc_audience"),
    Option(
        "oidc.ca_file",
        file_path,
        None,
        "PEM file of authorities for that URL, instead of the system's",
        field="report_oidc_ca",
    ),
    Option(
        "oidc.credentials_file",
        file_path,
        None,
        "file with the bearer token for that URL",
        field="report_oidc_token_file",
    ),
    Option(
        "limits.expire_every",
        seconds(0.05, 3600),
        5.0,
        "seconds between sweeps that free stale nodes",
        field="expire_every",
    ),
    Option(
        "limits.query_queue", whole(0, 100_000), 64, "most queries in the queue; more are refused", field="query_queue"
    ),
    Option(
        "limits.max_query_length", whole(16, 1_048_576), 16384, "most characters of a query", field="max_query_length"
    ),
    Option(
        "limits.max_answer_bytes",
        whole(1024, 2**31),
        67_108_864,
        "most bytes of one answer of Prometheus",
        field="max_answer_bytes",
    ),
    Option(
        "limits.max_answers_bytes",
        whole(1024, 2**40),
        134_217_728,
        "most bytes of all answers that are being sent",
        field="max_answers_bytes",
    ),
    Option(
        "limits.max_arriving_bytes",
        whole(1024, 2**40),
        67_108_864,
        "most bytes of all requests that are still arriving",
        field="max_arriving_bytes",
    ),
    Option(
        "limits.spool_sync",
        seconds(0.01, 3600),
        1.0,
        "seconds between flushes of the spool to the disk",
        field="spool_sync",
    ),
)

OPTIONS = tuple(option for group in GROUPS.values() for option in group) + TABLES

#: Flags and keys that were renamed: old name to new.
RENAMED = {
    "tls-certificate": "tls.cert_file",
    "tls-key": "tls.key_file",
    "tls-client-ca": "tls.client_ca_file",
    **{
        f"{prefix}-{old}": f"{prefix.replace('-', '_')}_http.{new}"
        for prefix in ("prometheus", "remote-write")
        for old, new in {
            "header": "headers",
            "ca": "ca_file",
            "certificate": "cert_file",
            "key": "key_file",
            "token-file": "credentials_file",
            "basic-auth-file": "basic_auth_file",
        }.items()
    },
    "remote-write-timeout": "remote_write_http.timeout",
    "remote-write-delay": "remote_write_http.batch_delay",
    "report-oidc-jwks": "oidc.jwks",
    "report-oidc-issuer": "oidc.issuer",
    "report-oidc-audience": "oidc.audience",
    "report-oidc-ca": "oidc.ca_file",
    "report-oidc-token-file": "oidc.credentials_file",
    **{
        name.replace("_", "-"): f"limits.{name}"
        for name in (
            "expire_every",
            "query_queue",
            "max_query_length",
            "max_answer_bytes",
            "max_answers_bytes",
            "max_arriving_bytes",
            "spool_sync",
        )
    },
}

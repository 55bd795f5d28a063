"""Every setting as a user meets it: its name, what values it takes, its default, what it is for. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from twisted.internet.endpoints import serverFromString

from orchestratord.http_client.urls import WrongUrl, http_url
from orchestratord.security.gate import Role

if TYPE_CHECKING:
    from collections.abc import Callable

#: When plain selectors of the latest value are answered from the node table.
Mode = Literal["never", "fallback", "always"]

#: Whether the nodes' families are in `/metrics`; auto: unless they are delivered by remote write.
Expose = Literal["auto", "always", "never"]

#: The value of `--prometheus` that asks for a Prometheus of our own.
EMBEDDED = "embedded"

#: Characters of an external label's name, and of its value.
MAX_LABEL = 200

#: Before the description of an endpoint that is to serve with `--tls-certificate`.
TLS_PREFIX = "tls:"


@dataclass(frozen=True)
class Option:
    """A setting as a user meets it: `--NAME`, `ORCHESTRATOR_NAME` and the TOML key `NAME`.

    `check` takes what was given, a string or a TOML value, and returns what Settings has; it raises ValueError with
    what it should be. `separator` splits the environment's one string into the values of a repeatable option.
    """

    name: str
    check: Callable[[Any], Any]
    default: Any
    help: str
    separator: str | None = None

    @property
    def flag(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.check is switch

    @property
    def repeatable(self) -> bool:
        """Whether the option may be given more than once."""
        return self.separator is not None

    @property
    def attribute(self) -> str:
        """The field of Settings."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "ORCHESTRATOR_" + self.attribute.upper()


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = _number(value)
        if number is None or not low <= number <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return number

    return check


def _off_or_seconds(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = _number(value)
        if number is None or not (number == 0 or low <= number <= high):
            raise ValueError(f"must be 0, or a number of seconds from {low:g} to {high:g}")
        return number

    return check


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = _number(value)
        if number is None or number != int(number) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(number)

    return check


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def switch(value: Any) -> bool:
    """Check what is on or off."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value.lower() in {"1", "true", "yes", "on"}:
            return True
        if value.lower() in {"0", "false", "no", "off"}:
            return False
    raise ValueError("must be true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def _endpoint(value: Any) -> str:
    """Check an endpoint description by making the endpoint, which opens nothing."""
    text = _text(value)
    inner = text.removeprefix(TLS_PREFIX)
    if inner != text and inner.startswith("ssl:"):
        raise ValueError("must not have TLS twice")
    try:
        serverFromString(None, inner)
    except Exception as error:  # noqa: BLE001 - a parser may come from any plugin, and raise anything
        raise ValueError(f"must be a Twisted endpoint description such as tcp:5000 ({error})") from None
    return text


def _base_url(value: Any) -> str:
    text = _text(value)
    if text == EMBEDDED:
        return text
    try:
        url = http_url(text)
    except WrongUrl as error:
        raise ValueError(f"{error}; it is the base URL of a Prometheus, or {EMBEDDED!r}") from None
    if "?" in text:
        raise ValueError("must be a base URL, without a query")
    return url.geturl().rstrip("/")


def _remote_write_url(value: Any) -> str:
    url = http_url(_text(value))
    if not url.path.strip("/"):
        raise ValueError("must have the path of a remote-write receiver, as in http://prometheus:9090/api/v1/write")
    return url.geturl()


def _label(value: Any) -> tuple[str, str]:
    """Check a label that goes along with every series."""
    name, equals, text = _text(value).partition("=")
    if not equals or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or not text.isprintable() or not text:
        raise ValueError("must be name=value, such as cluster=blue: a name of letters, digits and _, and a value")
    if name == "node_id":
        raise ValueError("must not be node_id, which every series has of its own")
    if name.startswith("__"):
        raise ValueError("must have a name that does not begin with __: those are the store's own")
    if len(name) > MAX_LABEL or len(text) > MAX_LABEL:
        raise ValueError(f"must not be longer than {MAX_LABEL} characters")
    return name, text


def _header(value: Any) -> tuple[str, str]:
    match = re.fullmatch(
        r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)[ \t]*", str(value)
    )
    if not match:
        raise ValueError("must be 'Name: value' in printable ASCII")
    if match[1].lower() in {"host", "content-length", "transfer-encoding", "connection", "content-type"}:
        raise ValueError(f"must not be {match[1]}, which is the connection's own business")
    return match[1], match[2]


def _retention(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[1-9]\d{0,5}(h|d|w|y)", text):
        raise ValueError("must be a duration such as 24h or 15d")
    return text


def _one_of(words: Any) -> Callable[[Any], Any]:
    """Return what checks that a value is one of a Literal's."""

    def check(value: Any) -> Any:
        if value not in get_args(words):
            raise ValueError(f"must be one of {', '.join(get_args(words))}")
        return value

    return check


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _token_file(value: Any) -> tuple[Role, Path]:
    role, _, path = _text(value).partition("=")
    if role not in set(Role) or not path.strip():
        raise ValueError(f"must be ROLE=PATH, with one of the roles {', '.join(Role)}")
    return Role(role), _path(path)


def _key_set(value: Any) -> str:
    """Check where a key set is: a path, or a URL that nobody else can answer for."""
    text = _text(value)
    if "://" not in text:
        return str(_path(text))
    try:
        url = http_url(text)
    except WrongUrl as error:
        raise ValueError(f"{error}; it is a file, or an https URL") from None
    on_this_machine = url.hostname in {"127.0.0.1", "::1", "localhost"}
    if not (url.scheme == "https" or on_this_machine):
        raise ValueError("must be a file, or an https URL: over http, anybody on the way could let anybody in")
    return url.geturl()


_WORDS = r"\s+"
_LINES = r"\s*\n\s*"

#: In the order in which `--help` and etc/orchestrator.toml show them.
OPTIONS = (
    Option(
        "listen",
        _endpoint,
        ("tcp:5000",),
        "Twisted endpoint description to serve on, IPv4 and IPv6 unless it has an interface=, with 'tls:' before it"
        " for TLS (tls:tcp:5443)",
        _WORDS,
    ),
    Option(
        "admin-listen",
        _endpoint,
        (),
        "endpoint description for the probes and DELETE /nodes/<id>, which are then served there only",
        _WORDS,
    ),
    Option("tls-certificate", _path, None, "PEM file of the tls: listeners' certificate and its chain"),
    Option("tls-key", _path, None, "PEM file of its private key"),
    Option("tls-client-ca", _path, None, "PEM file of authorities; tls: clients need a certificate signed by one"),
    Option(
        "prometheus",
        _base_url,
        ("http://127.0.0.1:9090",),
        "base URL of a Prometheus to pass queries to, tried in order; 'embedded' starts and supervises one of our own",
        r"[\s,]+",
    ),
    Option("prometheus-header", _header, (), "'Name: value' sent with every upstream request", _LINES),
    Option("prometheus-ca", _path, None, "PEM file of the authorities of https upstreams, instead of the system's"),
    Option(
        "prometheus-certificate", _path, None, "PEM file of a client certificate for https upstreams, and its chain"
    ),
    Option("prometheus-key", _path, None, "PEM file of its private key"),
    Option("prometheus-token-file", _path, None, "file with a bearer token for the upstreams"),
    Option("prometheus-basic-auth-file", _path, None, "file with user:password for the upstreams"),
    Option(
        "remote-write",
        _remote_write_url,
        None,
        "URL of a remote-write receiver that every report is delivered to, through a spool under data-dir;"
        " /nodes is then answered from what --prometheus knows",
    ),
    Option("remote-write-header", _header, (), "'Name: value' sent with every request to it", _LINES),
    Option("remote-write-ca", _path, None, "PEM file of the authorities of its https URL, instead of the system's"),
    Option("remote-write-certificate", _path, None, "PEM file of a client certificate for it, and its chain"),
    Option("remote-write-key", _path, None, "PEM file of its private key"),
    Option("remote-write-token-file", _path, None, "file with a bearer token for it"),
    Option("remote-write-basic-auth-file", _path, None, "file with user:password for it"),
    Option("remote-write-timeout", _seconds(0.1, 600), 10.0, "seconds for a whole exchange with it"),
    Option("remote-write-delay", _seconds(0.01, 0.5), 0.1, "seconds that a report waits for others to be sent with"),
    Option("external-label", _label, (), "name=value that every delivered series has as well", _LINES),
    Option(
        "expose-nodes",
        _one_of(Expose),
        "auto",
        "whether the nodes' families are in /metrics: auto (unless there is --remote-write), always or never",
    ),
    Option("spool-sync", _seconds(0.01, 3600), 1.0, "seconds after which what was spooled is on the disk itself"),
    Option(
        "spool-max-bytes",
        _whole(1_048_576, 2**50),
        1_073_741_824,
        "bytes of the spool, above which the oldest reports are dropped",
    ),
    Option("prometheus-binary", _text, "prometheus", "program that 'embedded' starts"),
    Option("prometheus-retention", _retention, "24h", "how long the embedded Prometheus keeps its data"),
    Option("stale-after", _seconds(0.1, 86400), 60.0, "seconds without a report after which a node is gone"),
    Option("expire-every", _seconds(0.05, 3600), 5.0, "seconds between sweeps that remove stale nodes"),
    Option("query-timeout", _seconds(0.1, 600), 10.0, "seconds for a whole upstream exchange"),
    Option("max-queries", _whole(1, 100_000), 256, "queries in flight above which more wait for their turn"),
    Option("query-queue", _whole(0, 100_000), 64, "queries that may wait for their turn; more are refused"),
    Option("query-cache", _seconds(0, 3600), 0.0, "seconds for which a complete answer is given again; 0: not at all"),
    Option(
        "latest-from-memory",
        _one_of(Mode),
        "never",
        "answer plain selectors of the latest value from the node table: never, fallback (no Prometheus) or always",
    ),
    Option("max-query-length", _whole(16, 1_048_576), 16384, "characters of PromQL in a query"),
    Option("max-answer-bytes", _whole(1024, 2**31), 67_108_864, "bytes of an upstream's answer"),
    Option("max-answers-bytes", _whole(1024, 2**40), 134_217_728, "bytes of all the answers that are being passed on"),
    Option("max-nodes", _whole(1, 10_000_000), 150_000, "size of the node table"),
    Option("max-report-bytes", _whole(64, 2**30), 1_048_576, "bytes of a request's body, unpacked"),
    Option("max-batch", _whole(1, 1_000_000), 10_000, "reports in one batch"),
    Option(
        "max-arriving-bytes", _whole(1024, 2**40), 67_108_864, "bytes of all the requests that have begun to arrive"
    ),
    Option("max-connections", _whole(1, 10_000_000), 16_384, "clients' connections above which more are refused"),
    Option("request-timeout", _seconds(0.1, 600), 30.0, "seconds for a whole request to arrive"),
    Option("idle-timeout", _seconds(0.1, 86400), 60.0, "seconds that a kept-alive connection may be idle"),
    Option("answer-timeout", _seconds(0.1, 86400), 60.0, "seconds for a client to take an answer"),
    Option("drain-delay", _seconds(0, 600), 0.0, "seconds between being not ready and closing the ports at a stop"),
    Option("drain-timeout", _seconds(0, 600), 15.0, "seconds that requests in flight get to finish at a stop"),
    Option("token-file", _token_file, (), "ROLE=PATH: tokens of the role report, query, scrape or admin", _WORDS),
    Option("report-oidc-jwks", _key_set, None, "file or URL of the keys by which reports' tokens, JWTs, are verified"),
    Option("report-oidc-issuer", _text, None, "issuer that such a token must name"),
    Option("report-oidc-audience", _text, None, "audience that such a token must be for"),
    Option("report-oidc-ca", _path, None, "PEM file of the authorities behind that URL, if the system has them not"),
    Option("report-oidc-token-file", _path, None, "file with the bearer token that is sent to that URL"),
    Option(
        "data-dir", _path, None, "where the embedded Prometheus' data, the snapshot of the table and the spool are kept"
    ),
    Option(
        "snapshot-every",
        _off_or_seconds(0.1, 3600),
        10.0,
        "seconds between snapshots of the table under data-dir, from which a restart takes it back; 0: none",
    ),
    Option("all-in-one", switch, False, "one machine: also an embedded Prometheus and a profiler of this host"),
    Option("access-log", switch, False, "log a line for every request, and why a report was refused"),
)

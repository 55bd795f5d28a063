"""One frozen `Settings`, checked whole, from flags over environment over the TOML file over defaults.

Pure: it reads the configuration file that it is told to read, and nothing else.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from twisted.internet.endpoints import serverFromString

from orchestratord.access import Role
from orchestratord.catalogue import BUILT_IN, Catalogue, Family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: When plain selectors of the latest value are answered from the node table.
Mode = Literal["never", "fallback", "always"]

#: The value of `--prometheus` that asks for a Prometheus of our own.
EMBEDDED = "embedded"

#: Before the description of an endpoint that is to serve with `--tls-certificate`.
TLS_PREFIX = "tls:"


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
    catalogue: Catalogue

    @property
    def embedded(self) -> bool:
        """Whether a Prometheus of our own is to be started."""
        return self.prometheus == (EMBEDDED,)

    @property
    def listeners(self) -> tuple[str, ...]:
        """Every endpoint description, the administrators' last."""
        return self.listen + self.admin_listen


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
        return self.check is _switch

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


def _switch(value: Any) -> bool:
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
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("must be an http or https URL") from None
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        raise ValueError(f"must be an http or https URL, or {EMBEDDED!r}")
    if url.query or url.fragment or url.username is not None or re.search(r"[\x00-\x20\x7f-\U0010ffff]", text):
        raise ValueError("must be a plain base URL: no query, fragment, credentials or blanks")
    return text.rstrip("/")


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


def _mode(value: Any) -> Mode:
    for mode in get_args(Mode):
        if value == mode:
            return mode  # type: ignore[no-any-return]  # one of Mode's
    raise ValueError(f"must be one of {', '.join(get_args(Mode))}")


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
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("must be a file, or an https URL") from None
    if re.search(r"[\x00-\x20\x7f-\U0010ffff]", text) or url.username is not None or url.fragment or port == 0:
        raise ValueError("must be a file, or a plain https URL: no credentials, fragment or blanks")
    on_this_machine = url.scheme == "http" and url.hostname in {"127.0.0.1", "::1", "localhost"}
    if not url.hostname or not (url.scheme == "https" or on_this_machine):
        raise ValueError("must be a file, or an https URL: over http, anybody on the way could let anybody in")
    return text


_WORDS = r"\s+"
_LINES = r"\s*\n\s*"

#: In the order in which `--help` and etc/orchestrator.toml show them.
OPTIONS = (
    Option(
        "listen",
        _endpoint,
        ("tcp:5000",),
        "Twisted endpoint description to serve on, with 'tls:' before it for TLS (tls:tcp:5443)",
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
        _mode,
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
    Option("data-dir", _path, None, "where the embedded Prometheus' data, and the snapshot of the table, are kept"),
    Option(
        "snapshot-every",
        _off_or_seconds(0.1, 3600),
        10.0,
        "seconds between snapshots of the table under data-dir, from which a restart takes it back; 0: none",
    ),
    Option("all-in-one", _switch, False, "one machine: also an embedded Prometheus and a profiler of this host"),
    Option("access-log", _switch, False, "log a line for every request, and why a report was refused"),
)

_BY_NAME = {option.name: option for option in OPTIONS}


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings.

    `flags` holds what the command line gave, by option name: a string, a list of strings for a repeatable option, True
    for a flag; and perhaps `config`, the TOML file's path.

    Raises SettingsError.
    """
    values: dict[str, Any] = {option.name: option.default for option in OPTIONS}
    values["data-dir"] = _default_data_dir(environ)
    given: set[str] = set()
    catalogue = BUILT_IN
    config = flags.get("config") or environ.get("ORCHESTRATOR_CONFIG")
    if config:
        from_file, catalogue = _read(Path(config))
        values.update(from_file)
        given |= from_file.keys()
    for option in OPTIONS:
        variable, text = _from_environment(option, environ)
        if text:
            parts = re.split(option.separator, text.strip()) if option.separator else text
            values[option.name] = _checked(option, parts, variable)
            given.add(option.name)
        if option.name in flags:
            values[option.name] = _checked(option, flags[option.name], f"--{option.name}")
            given.add(option.name)
    if values["all-in-one"]:
        if "prometheus" in given and values["prometheus"] != (EMBEDDED,):
            shown = " ".join(values["prometheus"])
            raise SettingsError(
                f"--prometheus: {shown!r} does not go with --all-in-one, which starts a Prometheus of its own"
            )
        values["prometheus"] = (EMBEDDED,)
    settings = Settings(catalogue=catalogue, **{_BY_NAME[name].attribute: value for name, value in values.items()})
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    for one, all_of_them in (
        ("max-answer-bytes", "max-answers-bytes"),
        ("max-report-bytes", "max-arriving-bytes"),
    ):
        least, given = (getattr(settings, _BY_NAME[name].attribute) for name in (one, all_of_them))
        if given < least:
            raise SettingsError(f"--{all_of_them}: {given!r} must be --{one} at least, which is {least}")
    if EMBEDDED in settings.prometheus:
        if not settings.embedded:
            raise SettingsError(f"--prometheus: {EMBEDDED!r} must be the only one")
        if not any(listen.startswith("tcp:") for listen in settings.listen):
            raise SettingsError(
                f"--listen: {' '.join(settings.listen)!r} has no tcp: endpoint for the embedded Prometheus to scrape"
                + (" (one with tls: before it does not serve for that)" if _with_tls(settings.listen) else "")
            )
    _check_tls(settings)
    _check_upstream_access(settings)


def _with_tls(listeners: tuple[str, ...]) -> list[str]:
    return [listen for listen in listeners if listen.startswith(TLS_PREFIX)]


def _check_tls(settings: Settings) -> None:
    served = _with_tls(settings.listeners)
    certificate = _given(settings, "tls-certificate", "tls-key")
    if served and not certificate:
        option = "--listen" if served[0] in settings.listen else "--admin-listen"
        raise SettingsError(f"{option}: {served[0]!r} needs --tls-certificate and --tls-key")
    for option, path in {**certificate, **_given(settings, "tls-client-ca")}.items():
        if not served:
            raise SettingsError(
                f"{option}: {path!r} is for a listener such as --listen tls:tcp:5443, and there is none"
            )
    _check_pair(settings, "tls-certificate", "tls-key")


def _check_upstream_access(settings: Settings) -> None:
    _check_pair(settings, "prometheus-certificate", "prometheus-key")
    for option, path in _given(settings, "prometheus-ca", "prometheus-certificate").items():
        if not any(base.startswith("https:") for base in settings.prometheus):
            raise SettingsError(f"{option}: {path!r} is for an https:// URL of --prometheus, and there is none")
    credentials = _given(settings, "prometheus-token-file", "prometheus-basic-auth-file")
    for option, path in credentials.items():
        if len(credentials) > 1:
            raise SettingsError(f"{option}: {path!r} does not go with --prometheus-basic-auth-file")
        if settings.embedded:
            raise SettingsError(f"{option}: {path!r} does not go with --prometheus {EMBEDDED}, which asks for nothing")
        if any(name.lower() == "authorization" for name, _ in settings.prometheus_header):
            raise SettingsError(f"{option}: {path!r} does not go with --prometheus-header Authorization")


def _given(settings: Settings, *names: str) -> dict[str, str]:
    """Return the paths that are set, by the option that each was named with."""
    paths = {name: getattr(settings, _BY_NAME[name].attribute) for name in names}
    return {f"--{name}": str(path) for name, path in paths.items() if path is not None}


def _check_pair(settings: Settings, *names: str) -> None:
    given = _given(settings, *names)
    if len(given) == 1:
        (option, path), missing = *given.items(), {f"--{name}" for name in names} - given.keys()
        raise SettingsError(f"{option}: {path!r} needs {missing.pop()} as well")

    _check_oidc(settings)


def _check_oidc(settings: Settings) -> None:
    jwks = settings.report_oidc_jwks
    needed = {"jwks": jwks, "issuer": settings.report_oidc_issuer, "audience": settings.report_oidc_audience}
    missing = [name for name, value in needed.items() if value is None]
    if missing and len(missing) < len(needed):
        given = next(name for name, value in needed.items() if value is not None)
        raise SettingsError(f"--report-oidc-{given}: {needed[given]!r} needs --report-oidc-{missing[0]} beside it")
    for name, path in (("ca", settings.report_oidc_ca), ("token-file", settings.report_oidc_token_file)):
        if path is not None and "://" not in (jwks or ""):
            raise SettingsError(f"--report-oidc-{name}: {str(path)!r} is for a --report-oidc-jwks that is a URL")
    if jwks is not None and settings.all_in_one and Role.REPORT not in dict(settings.token_file):
        raise SettingsError(
            f"--report-oidc-jwks: {jwks!r} shuts out the profiler of --all-in-one; give it a --token-file report=PATH"
        )


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME")
    if state and Path(state).is_absolute():
        return Path(state) / "orchestratord"
    return Path(environ.get("HOME") or "/var/lib") / ".local" / "state" / "orchestratord"


def _from_environment(option: Option, environ: Mapping[str, str]) -> tuple[str, str | None]:
    variable = option.variable
    if option.name == "prometheus" and not environ.get(variable) and environ.get("PROMETHEUS_URL"):
        variable = "PROMETHEUS_URL"
    return variable, environ.get(variable)


def _checked(option: Option, value: Any, where: str) -> Any:
    """Return the checked value; `where` is how the user gave it."""
    if not option.repeatable:
        return _check(option, value, where)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise SettingsError(f"{where}: must hold at least one value")
    return tuple(_check(option, item, where) for item in items)


def _check(option: Option, value: Any, where: str) -> Any:
    try:
        return option.check(value)
    except ValueError as error:
        raise SettingsError(f"{where}: {value!r} {error}") from None


def _read(path: Path) -> tuple[dict[str, Any], Catalogue]:
    """Return what a TOML file sets, by option name, and the catalogue with the file's families."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise SettingsError(f"--config: {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"--config: {str(path)!r} is not UTF-8") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--config: {str(path)!r} is not TOML: {error}") from None
    families = table.pop("families", [])
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = _BY_NAME.get(key.replace("_", "-"))
        if option is None:
            raise SettingsError(f"{path}: {key!r} is no setting")
        values[option.name] = _checked(option, value, f"{path}: {key}")
    return values, _with_families(families, path)


def _with_families(families: Any, path: Path) -> Catalogue:
    where = f"{path}: families"
    if not isinstance(families, list) or not all(isinstance(table, dict) for table in families):
        raise SettingsError(f"{where}: must be an array of tables, [[families]]")
    more: list[Family] = []
    kinds: dict[str, type | tuple[type, ...]] = {
        "name": str,
        "help": str,
        "unit": str,
        "kind": str,
        "minimum": (int, float),
    }
    for index, table in enumerate(families):
        here = f"{where}[{index}]"
        for key, value in table.items():
            if key not in kinds:
                raise SettingsError(f"{here}: {key!r} is no key of a family")
            if isinstance(value, bool) or not isinstance(value, kinds[key]):
                raise SettingsError(f"{here}.{key}: {value!r} is of the wrong type")
        missing = {"name", "help"} - table.keys()
        if missing:
            raise SettingsError(f"{here}: {min(missing)!r} is missing")
        try:
            more.append(Family(**table))
        except ValueError as error:
            raise SettingsError(f"{here}: {error}") from None
    try:
        return BUILT_IN.with_more(more)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None

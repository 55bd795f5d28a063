"""One frozen `Settings`, checked whole, from flags over environment over the TOML file over defaults.

Pure: it reads the configuration file that it is told to read, and nothing else.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestratord.config.consistency import SettingsError, check_together
from orchestratord.config.options import OPTIONS, RENAMED, Option
from orchestratord.config.values import EMBEDDED
from orchestratord.nodes.families import BUILT_IN, Families, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestratord.config.values import Expose
    from orchestratord.promql.params import Mode
    from orchestratord.security.gate import Role


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
        """Whether a Prometheus of our own is to be started."""
        return self.prometheus == (EMBEDDED,)

    @property
    def nodes_exposed(self) -> bool:
        """Whether the nodes' families are in /metrics."""
        return self.expose_nodes == "always" or (self.expose_nodes == "auto" and self.remote_write is None)

    @property
    def listeners(self) -> tuple[str, ...]:
        """Every endpoint description, the administrators' last."""
        return self.listen + self.admin_listen


__all__ = ["Settings", "SettingsError", "load"]

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
    families = BUILT_IN
    config = flags.get("config") or environ.get("ORCHESTRATOR_CONFIG")
    if config:
        from_file, families = _read(Path(config))
        values.update(from_file)
        given |= from_file.keys()
    _refuse_old_names(environ)
    for option in OPTIONS:
        variable, text = _from_environment(option, environ)
        if text:
            parts = re.split(option.separator, text.strip()) if option.separator else text
            values[option.name] = _checked(option, parts, variable)
            given.add(option.name)
        if option.name in flags:
            values[option.name] = _checked(option, flags[option.name], option.shown)
            given.add(option.name)
    if values["all-in-one"]:
        if "prometheus" in given and values["prometheus"] != (EMBEDDED,):
            shown = " ".join(values["prometheus"])
            raise SettingsError(
                f"--prometheus: {shown!r} does not go with --all-in-one, which starts a Prometheus of its own"
            )
        values["prometheus"] = (EMBEDDED,)
    settings = Settings(families=families, **{_BY_NAME[name].attribute: value for name, value in values.items()})
    check_together(settings)
    return settings


def renamed(old: str, shown: str) -> str:
    """Return the line that says what an option of an earlier version is called now; `shown` is how it was given."""
    option = _BY_NAME[RENAMED[old]]
    table, _, key = option.name.partition(".")
    return f"{shown} is now the key {key} of the table [{table}] in the --config file, or {option.variable}"


def _refuse_old_names(environ: Mapping[str, str]) -> None:
    for old in RENAMED:
        variable = "ORCHESTRATOR_" + old.replace("-", "_").upper()
        if environ.get(variable):
            raise SettingsError(renamed(old, variable))


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


def _read(path: Path) -> tuple[dict[str, Any], Families]:
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
    for key, value in _flattened(table, path):
        option = _BY_NAME.get(key)
        if option is None:
            old = key.replace("_", "-")
            if old in RENAMED:
                raise SettingsError(renamed(old, f"{path}: {key!r}"))
            close = get_close_matches(old if "." not in key else key, _BY_NAME, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{path}: {key!r} is not a setting{meant}")
        values[option.name] = _checked(option, value, f"{path}: {key}")
    return values, _with_families(families, path)


def _flattened(table: dict[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name of each option that a file sets, and its value."""
    tables = {option.name.partition(".")[0] for option in OPTIONS if not option.is_flag}
    for key, value in table.items():
        if key not in tables:
            yield (key.replace("_", "-") if key.replace("_", "-") in _BY_NAME else key), value
        elif isinstance(value, dict):
            yield from ((f"{key}.{inner.replace('-', '_')}", each) for inner, each in value.items())
        else:
            raise SettingsError(f"{path}: {key!r} must be a table, [{key}]")


def _with_families(families: Any, path: Path) -> Families:
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

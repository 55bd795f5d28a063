"""Load the settings: flags override the environment, which overrides the TOML file, which overrides the defaults.

Pure, except that it reads the configuration file that it is given.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestratord.config.consistency import check_together
from orchestratord.config.options import OPTIONS, RENAMED, Option
from orchestratord.config.settings import Settings, SettingsError
from orchestratord.config.values import EMBEDDED
from orchestratord.nodes.families import BUILT_IN, Families, Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BY_NAME = {option.name: option for option in OPTIONS}


def load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings.

    `flags` holds what the command line gave, by option name: a string, a list of strings for a repeatable option, or
    True for a switch. `config`, if given, is the path of the TOML file.

    Raises SettingsError, which names the option and its value.
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
                f"--prometheus: {shown!r} cannot be used with --all-in-one, which starts a Prometheus of its own"
            )
        values["prometheus"] = (EMBEDDED,)
    settings = Settings(families=families, **{_BY_NAME[name].attribute: value for name, value in values.items()})
    check_together(settings)
    return settings


def renamed(old: str, shown: str) -> str:
    """Return a line with the new name of an option of an earlier version; `shown` is how the user gave it."""
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
    """Return the checked value; `where` names where the user gave it."""
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
    """Return what a TOML file sets, by option name, and the metric families with those of the file."""
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
                raise SettingsError(f"{here}: {key!r} is not a key of a family")
            if isinstance(value, bool) or not isinstance(value, kinds[key]):
                raise SettingsError(f"{here}.{key}: {value!r} has the wrong type")
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

"""The daemon's options as tests write them: as if all of them were flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestratord.config.options import OPTIONS, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TABLES = {f"--{option.name}": option.variable for option in TABLES}


def flags_and_environment(options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the options that are flags, and the environment variables of those that are keys of tables.

    Both forms are taken: `--limits.max_batch=5`, and `--limits.max_batch` followed by `5`. A key that may have several
    values has one a line.
    """
    flags: list[str] = []
    environ: dict[str, str] = {}
    rest = iter(options)
    for option in rest:
        name, equals, value = option.partition("=")
        variable = _TABLES.get(name)
        if variable is None:
            flags.append(option)
            continue
        given = value if equals else next(rest)
        environ[variable] = f"{environ[variable]}\n{given}" if variable in environ else given
    return flags, environ


def by_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the names of their options, as `load` takes them; `fields` has them by field of Settings."""
    names = {option.attribute: option.name for option in OPTIONS}
    return {names[field]: value for field, value in fields.items()}

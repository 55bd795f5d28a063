"""Environment variables that look like options but are not. Each is logged at the start; nothing else would show it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Most variables that are named, and most characters of each name.
MAX_NAMED = 20
MAX_NAME = 100

#: Variables that Kubernetes and Docker links set for each service; they begin with the service's name.
_OF_A_SERVICE = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.DOTALL
)


def misspelt(prefix: str, known: Collection[str], environ: Mapping[str, str]) -> list[str]:
    """Return one line for each variable that begins with `prefix`, in any case, and is not one of `known`.

    A line suggests the most similar variable of `known`, if there is one. Values are never shown, since they may be
    secrets. Variables that Kubernetes sets for a service are recognized by their form, and left out.
    """
    lines: list[str] = []
    for name in sorted(environ):
        if not name.upper().startswith(prefix) or name in known or _is_of_a_service(name, environ[name]):
            continue
        if len(lines) == MAX_NAMED:
            lines.append(f"more variables that begin with {prefix} are ignored")
            break
        lines.append(
            f"the environment variable {name[:MAX_NAME]!r} is not an option and is ignored{_meant(prefix, known, name)}"
        )
    return lines


def _is_of_a_service(name: str, value: str) -> bool:
    return bool(_OF_A_SERVICE.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _meant(prefix: str, known: Collection[str], name: str) -> str:
    # Without the common prefix, which would make all names look alike.
    ends = [each.removeprefix(prefix) for each in known if each.startswith(prefix)]
    close = difflib.get_close_matches(name[len(prefix) : MAX_NAME].upper(), ends, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""

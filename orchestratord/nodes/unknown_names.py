"""Unknown names in reports: which family each of them may mean, as text. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec

#: The most names that one error explains, and the characters of a name that count.
_EXPLAINED, _LENGTH = 3, 64
#: The most families that a name is compared with: a comparison takes up to 30 us.
_COMPARED = 40


def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name that is most similar, or None. Cached, since a whole fleet may misspell one name."""
    return _nearest(name[:_LENGTH], known[:_COMPARED])


@lru_cache(maxsize=1000)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    found = get_close_matches(name, known, 1, 0.6)
    return found[0] if found else None


def explained(unknown: Mapping[str, msgspec.Raw], known: tuple[str, ...]) -> str:
    """Return the error text for a report without a known family; `unknown` has its names and their values' JSON."""
    said = []
    for name in list(unknown)[:_EXPLAINED]:
        shown = f"'{ascii(name)[1:-1][:_LENGTH]}'"
        if bytes(unknown[name]).lstrip()[:1] == b"{":
            said.append(f"{shown} is an object, and families stand beside node_id")
        else:
            meant = nearest(name, known)
            said.append(f"{shown} (did you mean {meant}?)" if meant else shown)
    if len(unknown) > _EXPLAINED:
        said.append(f"{len(unknown) - _EXPLAINED} more")
    return f"no name in the report is a metric family: {', '.join(said)}"

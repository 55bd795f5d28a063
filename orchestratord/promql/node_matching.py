"""Which node ids a matcher of PromQL selects, with a bound on the work and the memory of it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import re2

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that RE2 may take for one expression: its program, and the states that it keeps of its automaton.
RE2_BYTES = 262_144
#: Instructions of RE2's program. When the states do not fit, each byte of a text costs up to 5 ns for each instruction.
MAX_PROGRAM = 1000
#: Characters of an expression that RE2 compiles: a millisecond.
MAX_PATTERN = 4000
#: Groups of an expression: Go refuses one whose tree is over 1,000 levels high, and a group adds four at the most.
MAX_GROUPS = 200
#: Ways in which the dots of alternatives of one length may lie.
_MAX_MASKS = 8
#: Bytes for what Python holds of a matcher, and of each name beside its characters.
_MATCHER_BYTES, _NAME_BYTES = 1024, 200

_NAMES = re.compile(r"(?:[A-Za-z0-9_:.-]|\\[.:-])++(?:\|(?:[A-Za-z0-9_:.-]|\\[.:-])++)*+")
#: Syntax that means the same to RE2 and to Go's regexp/syntax. The rest is for Prometheus: `\C`, `\pN`, `\Q`, codes of
#: characters, flags other than `i`, names of groups, and braces that are no repetition.
_SYNTAX = re.compile(
    r"""(?:
      [A-Za-z0-9_ !"\#%&',\-/:;<=>@`~.|^$*+?)]
    | \( (?! \?) | \(\?i?: | \(\?i\)
    | \\ [dDsSwW!"\#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~]
    | \[ \^? (?: [A-Za-z0-9_ !"\#$%&'()*+,./:;<=>?@`{|}~-] | \\[dDsSwW.\-\[\]\\^$] )++ \]
    | \{ [0-9]{1,4} (?: , [0-9]{0,4} )? \}
    )*+""",
    re.VERBOSE,
)
_OPTIONS = re2.Options()
_OPTIONS.max_mem = RE2_BYTES
#: Otherwise each text that is matched without the automaton writes a line to stderr.
_OPTIONS.log_errors = False
#: A group would be looked for by a slower way, after the automaton has said that there is a match.
_OPTIONS.never_capture = True
_OPTIONS.dot_nl = True


class NodeMatcher(NamedTuple):
    """One matcher on `node_id`.

    `node_ids` are the only ones that can match, None: any. `steps` is the most work for each byte of a node id, in
    instructions of RE2. `size` is the bytes of memory.
    """

    matches: Callable[[str], bool]
    node_ids: list[str] | None
    steps: int
    size: int


def node_matcher(operator: str, value: str) -> NodeMatcher | None:
    """Return the matcher of an operator of PromQL; None if Prometheus may read the value otherwise, or refuse it."""
    if operator == "=":
        return NodeMatcher(value.__eq__, [value], 0, _bytes_of([value]))
    if operator == "!=":
        return NodeMatcher(value.__ne__, None, 0, _bytes_of([value]))
    found = _names(value) if _NAMES.fullmatch(value) else None
    if found is None:
        found = _expression(value)
    if found is None or operator == "=~":
        return found
    matches = found.matches
    return found._replace(matches=lambda node_id: not matches(node_id), node_ids=None)


def _names(value: str) -> NodeMatcher | None:
    """Return the matcher of alternatives of plain characters and dots; None if the dots lie in too many ways."""
    marked = value.replace("\\.", "\0").replace("\\", "")
    names = list(dict.fromkeys(marked.replace("\0", ".").split("|")))
    size = _bytes_of(names)
    if "." not in marked:
        known = frozenset(names)
        return NodeMatcher(known.__contains__, names, 0, size)
    #: By length, and by where the dots are that stand for any character.
    masks: dict[int, dict[tuple[int, ...], set[str]]] = {}
    for name in marked.split("|"):
        ways = masks.setdefault(len(name), {})
        at = tuple(index for index, character in enumerate(name) if character == ".")
        ways.setdefault(at, set()).add(name.replace("\0", "."))
        if len(ways) > _MAX_MASKS or len(at) > _MAX_MASKS:
            return None
    return NodeMatcher(lambda node_id: _is_masked(node_id, masks), None, 0, 2 * size)


def _is_masked(node_id: str, masks: dict[int, dict[tuple[int, ...], set[str]]]) -> bool:
    for positions, names in masks.get(len(node_id), {}).items():
        masked = node_id
        for at in positions:
            masked = f"{masked[:at]}.{masked[at + 1 :]}"
        if masked in names:
            return True
    return False


def _expression(value: str) -> NodeMatcher | None:
    """Return the matcher of a regular expression, if it is one by itself: an anchor is no part of it."""
    if len(value) > MAX_PATTERN or value.count("(") > MAX_GROUPS or not _SYNTAX.fullmatch(value):
        return None
    try:
        pattern = re2.compile(value, _OPTIONS)
    except re2.error:
        return None
    finally:
        re2.purge()  # the module keeps the last 128 otherwise, and nobody counts them
    if pattern.programsize > MAX_PROGRAM:
        return None
    fullmatch = pattern.fullmatch
    size = _MATCHER_BYTES + RE2_BYTES + 2 * len(value)
    return NodeMatcher(lambda node_id: fullmatch(node_id) is not None, None, pattern.programsize, size)


def _bytes_of(names: list[str]) -> int:
    return _MATCHER_BYTES + sum(map(len, names)) + _NAME_BYTES * len(names)

"""Parses PromQL from outside without risk: the native parser gets a short, shallow text without the query's strings.

promql-parser is written in Rust and runs on the thread's stack. Deep input crashes the process; time and memory grow
with the square of the number of operators; and it compiles each regular expression itself (0.5 to 1.5 s for 600
characters). So the bounds are checked before a query is parsed, and each string is cut out, with the matching operator
before it: of `f{node_id=~"n1|n2"}` the parser sees `f{node_id="0"}`, and the text of string 0 is kept beside it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from promql_parser import MatchOp
from promql_parser import parse as parse_native

#: Characters of a query, strings included: 500 node names of 253 characters.
MAX_LENGTH = 131_072
#: Characters of a query without its strings: a weighted sum of ten families has 1,500.
MAX_SHAPE = 8192
#: Nested brackets, and operators in all. By experiment a stack of 8 MiB overflows at 2,000 to 3,000 levels of
#: subqueries, 4,000 to 5,000 of binary operators or function calls, 6,000 to 8,000 of parentheses, unary minus or
#: aggregations: at least fifteen times both bounds together.
MAX_NESTING = 32
MAX_OPERATORS = 100
#: Strings and comments in a query.
MAX_STRINGS = 64
#: Names, numbers, strings, brackets and operators: a weighted sum of ten families has 400.
MAX_TOKENS = 1500
#: Tokens times levels, since the parser copies everything below each operator: about a millisecond.
MAX_WORK = 40_000

#: Where a string or a comment begins, and the rest of it. A string is printable ASCII; only the backslash and the quote
#: may be escaped. A string without an end, or with other characters, does not match.
_BEGIN = re.compile(r"""["'`#]""")
_STRING = {
    '"': re.compile(r"""([ !#-\[\]-~]*+(?:\\["\\][ !#-\[\]-~]*+)*+)\""""),
    "'": re.compile(r"""([ -&(-\[\]-~]*+(?:\\['\\][ -&(-\[\]-~]*+)*+)'"""),
    "`": re.compile(r"([ -_a-~]*+)`"),
    "#": re.compile(r"([^\n\r]*+)"),
}
_MATCHING = ("=~", "!~", "!=", "=")
#: Characters that PromQL allows outside of strings, white space included. `#` stands for a comment that was cut out.
_ASCII = re.compile(r"[\t\n\r -~]*+")
_TOKENS = re.compile(r'"[0-9]+"|[A-Za-z_:][A-Za-z0-9_:]*+|[0-9.][A-Za-z0-9_:.]*+|[=!<>~]++|\S')
#: A number, up to the sign of its exponent, or a duration: `1and1` would be one token here, and three in the parser.
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]++|(?:[0-9]++(?:ms|[smhdwy]))++|[0-9.]++(?:[eE][0-9]*+)?")
#: A range, with its closing bracket. The parser panics at a range of 300 billion years, though not at other durations.
_RANGE = re.compile(r"(?:[0-9]{1,9}(?:ms|[smhdwy])){1,7}\]")
_OPERATORS = frozenset([*"+-*/%^<>", "==", "!=", "<=", ">=", "and", "or", "unless", "atan2"])
#: Memory never answers these modifiers; `offset` takes a duration.
_ELSEWHERE = frozenset(["offset", "@"])
_COMMENT, _RANGE_BEGINS = "#", frozenset("[")
_OPENS = frozenset("([{")
_CLOSES = {")": "(", "]": "[", "}": "{"}


class Text(NamedTuple):
    """A string of a query, unescaped, and the matching operator before it: `=`, `!=`, `=~`, `!~`, or empty."""

    operator: str
    value: str


class Parsed(NamedTuple):
    """A query's expression, made by promql-parser; in place of each string it has the decimal index into `texts`."""

    expression: Any
    texts: list[Text]

    def matcher(self, matcher: Any) -> Text | None:
        """Return the operator and the string of a matcher of the expression; None if its string was not cut out."""
        if matcher.op != MatchOp.Equal or not matcher.value.isdecimal() or int(matcher.value) >= len(self.texts):
            return None
        text = self.texts[int(matcher.value)]
        return text if text.operator else None


def parse(promql: str) -> Parsed | None:
    """Return a query's expression; None if it is wrong, unclear or over a bound, so that Prometheus must decide.

    Takes about a millisecond at most, whatever the text. Regular expressions are not checked.
    """
    try:
        return parse_or_panic(promql)
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        return None  # a panic of the native parser is a BaseException


def parse_or_panic(promql: str) -> Parsed | None:
    """Do as `parse` does, except that a panic of the native parser is raised, after a line of its own on stderr."""
    texts: list[Text] = []
    shape = _shape(promql, texts)
    if shape is None or not _is_bounded(shape):
        return None
    try:
        return Parsed(parse_native(shape.replace(_COMMENT, " ")), texts)
    except ValueError:
        return None


def _shape(promql: str, texts: list[Text]) -> str | None:
    """Return a query with an index for each string and a `#` for each comment, and add the strings to `texts`."""
    if len(promql) > MAX_LENGTH:
        return None
    parts: list[str] = []
    at = length = 0
    while (begin := _BEGIN.search(promql, at)) is not None:
        before, quote = promql[at : begin.start()], begin[0]
        match = _STRING[quote].match(promql, begin.end())
        if match is None or len(parts) >= MAX_STRINGS:
            return None
        at = match.end()
        if quote == _COMMENT:
            parts.append(before + _COMMENT)
        else:
            before, operator = _parted(before)
            value = match[1]
            if quote != "`":
                value = value.replace("\\\\", "\0").replace(f"\\{quote}", quote).replace("\0", "\\")
            parts.append(f'{before}="{len(texts)}"' if operator else f'{before}"{len(texts)}"')
            texts.append(Text(operator, value))
        length += len(parts[-1])
        if length > MAX_SHAPE:
            return None
    if length + len(promql) - at > MAX_SHAPE:
        return None
    shape = "".join(parts) + promql[at:]
    return shape if _ASCII.fullmatch(shape) else None


def _parted(before: str) -> tuple[str, str]:
    """Return what comes before a string without the matching operator at its end, and that operator."""
    stripped = before.rstrip("\t\n\r ")
    for operator in _MATCHING:
        if stripped.endswith(operator):
            return stripped[: -len(operator)], operator
    return before, ""


def _is_bounded(shape: str) -> bool:
    tokens = _TOKENS.findall(shape)
    opened: list[str] = []
    deepest = operators = 0
    for index, token in enumerate(tokens[:MAX_TOKENS]):
        if token in _OPENS:
            if token in _RANGE_BEGINS and not _RANGE.fullmatch("".join(tokens[index + 1 : index + 3])):
                return False
            opened.append(token)
            deepest = max(deepest, len(opened))
        elif token in _CLOSES:
            if not opened or opened.pop() != _CLOSES[token]:
                return False
        elif token in _OPERATORS or (word := token.lower()) in _OPERATORS:
            operators += 1
        elif word in _ELSEWHERE or (token[0] in "0123456789." and not _NUMBER.fullmatch(token)):
            return False
    return (
        not opened
        and len(tokens) <= MAX_TOKENS
        and deepest <= MAX_NESTING
        and operators <= MAX_OPERATORS
        and len(tokens) * (1 + deepest + operators) <= MAX_WORK
    )

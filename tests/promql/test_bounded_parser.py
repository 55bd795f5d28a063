"""PromQL before the native parser sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promql_parser import parse as parse_native

from orchestratord.promql import bounded_parser as promql_bounds
from orchestratord.promql.bounded_parser import (
    MAX_LENGTH,
    MAX_NESTING,
    MAX_OPERATORS,
    MAX_SHAPE,
    MAX_STRINGS,
    MAX_TOKENS,
    Text,
    parse,
)
from tests.fakes import FAMILIES


@pytest.mark.parametrize(
    "promql",
    [
        "a" + "+a" * 8000,
        "a" + "^a" * 8000,
        "a" + " and a" * 8000,
        "a" + " AND a" * 8000,
        "1" + "and1" * 8000,
        "1" + "and1" * 150,
        "1.5e" + "or1" * 150,
        "-" * 8000 + "a",
        "- " * 8000 + "a",
        "(" * 8000 + "a" + ")" * 8000,
        "(" * 8000,
        "sum(" * 8000 + "a" + ")" * 8000,
        "max_over_time(" * 3000 + "a" + "[5m:1m])" * 3000,
        "a" + "[5m:1m]" * 8000,
        "a" + "{" * 8000,
        "a" + " offset 5m" * 8000,
        "a{" + ",".join(['b="c"'] * 8000) + "}",
        "sum by (" + ",".join(["a"] * 8000) + ") (a)",
        "#\n" * 8000 + "a",
        "a" * 200_000,
        '"' + "a" * 200_000 + '"',
        " " * 200_000 + "a",
    ],
    ids=lambda promql: promql[:20],
)
def test_what_would_end_the_parser_or_hold_the_reactor_is_not_parsed(promql: str) -> None:
    """Prometheus judges it. Some of these end a process whose parser sees them."""
    assert parse(promql) is None


def test_a_query_at_each_bound_is_parsed_and_one_above_is_not() -> None:
    """The bounds mean what they say."""
    for at_bound, above in [
        ("(" * MAX_NESTING + "a" + ")" * MAX_NESTING, "(" * (MAX_NESTING + 1) + "a" + ")" * (MAX_NESTING + 1)),
        ("a" + "+a" * MAX_OPERATORS, "a" + "+a" * (MAX_OPERATORS + 1)),
        (
            "a{" + ",".join(['b="c"'] * MAX_STRINGS) + "}",
            "a{" + ",".join(['b="c"'] * (MAX_STRINGS + 1)) + "}",
        ),
        (f'a{{b="{"c" * (MAX_LENGTH - 7)}"}}', f'a{{b="{"c" * (MAX_LENGTH - 6)}"}}'),
        ("a" * MAX_SHAPE, "a" * (MAX_SHAPE + 1)),
        (f"sum by ({','.join(['b'] * 700)}) (a)", f"sum by ({','.join(['b'] * (MAX_TOKENS // 2))}) (a)"),
    ]:
        assert parse(at_bound) is not None
        assert parse(above) is None


def test_the_parser_survives_ten_times_the_bounds() -> None:
    """Whatever its version: the margin between a bound and the end of the process is kept."""
    deep, many = 10 * MAX_NESTING, 10 * MAX_OPERATORS
    script = f"""if True:
        from promql_parser import parse
        parse("a" + "+a" * {many})
        parse("a" + "^a" * {many})
        parse("-" * {many} + "a")
        parse("(" * {deep} + "a" + ")" * {deep})
        parse("max_over_time(" * {deep} + "a" + "[5m:1m])" * {deep})
    """
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_schedulers_score_is_within_the_bounds() -> None:
    """Ten families, averaged over a minute for 500 nodes each, over their mean in the whole fleet."""
    names = "|".join(f"ip-10-0-{number // 250}-{number % 250}.eu-west-1.compute.internal" for number in range(500))
    families = [*FAMILIES, "cpu", "net"]
    assert len(families) == 10
    parts = [
        f'0.1 * avg_over_time({name}{{node_id=~"{names}"}}[1m]) / scalar(avg(avg_over_time({name}[1m])))'
        for name in families
    ]
    assert len(names) < 30_000
    short = [part.replace(names, names[: MAX_LENGTH // 12]) for part in parts]
    parsed = parse(" + ".join(short))
    assert parsed is not None
    assert [text.operator for text in parsed.texts] == ["=~"] * 10


def test_strings_are_cut_out_and_read_by_us() -> None:
    """The parser, and its library of regular expressions, see an index; comments are gone; what they said is kept."""
    query = r"""page_faults # "a comment" {
        { node_id =~ "n\"1\\d" , node_id!~'\'',node_id!= `a\d"'`,  # another
          node_id="x" }"""
    parsed = parse(query)
    assert parsed is not None
    matchers = parsed.expression.matchers.matchers
    assert [matcher.value for matcher in matchers] == ["0", "1", "2", "3"]
    expected = [Text("=~", 'n"1\\d'), Text("!~", "'"), Text("!=", "a\\d\"'"), Text("=", "x")]
    assert parsed.texts == expected
    assert [parsed.matcher(matcher) for matcher in matchers] == expected


@pytest.mark.parametrize(
    "promql",
    [
        "a\f",
        "a\v",
        "a\u00a0",
        "a\u2028",
        "a\0",
        "é",
        'a{b="é"}',
        'a{b="\ufffd"}',
        'a{b="\t"}',
        'a{b="\n"}',
        r'a{b="\x61"}',
        r'a{b="\n"}',
        r'a{b="\q"}',
        r"""a{b="\'"}""",
        'a{b="',
        "a{b='c\"}",
        "a{b=`c",
        'a{b="c"',
        'a{b="c")}',
        "a[#\n5m]",
        'a{b=="c"}',
        'a == "c"',
        'a{b=!"c"}',
        "5and5",
        "a offset 5m",
        "a OFFSET NaN",
        "a offset 1e300",
        "a @ 5",
        "a[1e300]",
        "a[9223372036854775807]",
        "a[5m:1m]",
        "a[5m:1e300]",
        "a[9999999999y]",
        "a[]",
        "a[5m)",
        ".and.",
    ],
)
def test_what_is_doubtful_is_for_prometheus(promql: str) -> None:
    """White space, characters, escapes and ends that it takes otherwise, or not at all."""
    assert parse(promql) is None


def test_a_panic_of_the_parser_is_for_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception, and nobody else would catch it."""

    def panics(promql: str) -> None:
        parse_native(f"{promql} offset NaN")

    monkeypatch.setattr(promql_bounds, "parse_native", panics)
    with pytest.raises(BaseException, match="Duration") as raised:
        promql_bounds.parse_or_panic("a")
    assert not isinstance(raised.value, Exception)
    assert parse("a") is None


@given(st.text(alphabet="a{}[]()=~!'\"`\\#\n ,+-*/^<>0159.:mesonrandfit@é\f", max_size=200))
def test_any_text_is_parsed_or_not(promql: str) -> None:
    """And nothing is raised."""
    parse(promql)

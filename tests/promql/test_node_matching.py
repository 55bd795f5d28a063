"""Which node ids a matcher selects, and what it may cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
import re2

from orchestratord.promql.node_matching import MAX_GROUPS, MAX_PATTERN, MAX_PROGRAM, RE2_BYTES, node_matcher

NODES = ["n1", "n2", "N1", "a.b", "a-b", "a.c.d", "axcxd", "aXcYd", "ip-10-0-0-1.eu.internal", "x" * 253]


def matched(operator: str, value: str) -> list[str]:
    """Return the nodes that match."""
    matcher = node_matcher(operator, value)
    assert matcher is not None
    found = [node for node in NODES if matcher.matches(node)]
    assert matcher.node_ids is None or set(found) <= set(matcher.node_ids)
    return found


@pytest.mark.parametrize(
    ("operator", "value", "nodes"),
    [
        ("=", "n1", ["n1"]),
        ("=", "", []),
        ("!=", "n1", NODES[1:]),
        ("=~", "n1|n2|n1", ["n1", "n2"]),
        ("=~", "n1", ["n1"]),
        ("=~", "", []),
        ("=~", "|", []),
        ("=~", "n1|", ["n1"]),
        ("=~", r"a\.b", ["a.b"]),
        ("=~", r"a\-b", ["a-b"]),
        ("=~", "a.b", ["a.b", "a-b"]),
        ("=~", "a.b|n1", ["n1", "a.b", "a-b"]),
        ("=~", "a.c.d|a.b", ["a.b", "a-b", "a.c.d", "axcxd", "aXcYd"]),
        ("=~", r"a\.c.d", ["a.c.d"]),
        ("=~", r"a.c\.d", ["a.c.d"]),
        ("=~", "..", ["n1", "n2", "N1"]),
        ("=~", "n.*", ["n1", "n2"]),
        ("=~", "(?i)N1", ["n1", "N1"]),
        ("=~", "(?i:N)1", ["n1", "N1"]),
        ("=~", "(n)(1|2)", ["n1", "n2"]),
        ("=~", "n[12]", ["n1", "n2"]),
        ("=~", "x+", ["x" * 253]),
        ("=~", "(" * MAX_GROUPS + "n1" + ")" * MAX_GROUPS, ["n1"]),
        ("!~", "n1|n2|a.*|x+|ip.*", ["N1"]),
        ("!~", "n1|a.b|a.c.d", ["n2", "N1", "ip-10-0-0-1.eu.internal", "x" * 253]),
        ("!~", ".+", []),
        ("!~", "", NODES),
    ],
)
def test_nodes_are_matched_as_prometheus_does(operator: str, value: str, nodes: list[str]) -> None:
    """Anchored at both ends; a dot is any character; names of nodes with dots are no less than others."""
    assert matched(operator, value) == nodes


def test_five_hundred_names_with_dots_need_no_automaton() -> None:
    """As a scheduler on AWS sends them; without dots, or with the dots escaped, they are looked up by name."""
    names = [f"ip-10-0-{number // 250}-{number % 250}.eu-west-1.compute.internal" for number in range(500)]
    plain, escaped = (node_matcher("=~", "|".join(one)) for one in (names, [n.replace(".", r"\.") for n in names]))
    assert plain is not None
    assert escaped is not None
    assert plain.steps == escaped.steps == 0
    assert (plain.node_ids, escaped.node_ids) == (None, names)
    for name in names:
        assert plain.matches(name)
        assert plain.matches(name.replace(".", "-"))
        assert escaped.matches(name)
        assert not escaped.matches(name.replace(".", "-"))
    assert not plain.matches("ip-10-0-9-9.eu-west-1.compute.internal")


@pytest.mark.parametrize(
    "value",
    [
        "a)|(b",
        "a)(b",
        ")",
        "(",
        "[",
        "[z-a]",
        "**",
        "a**",
        "+",
        "{2}",
        "a{1001}",
        "a{2,1}",
        "(a{1000}){1000}",
        r"\C",
        r"\pN",
        r"\p{Greek}",
        r"\Qa.b\E",
        r"\x61",
        r"\101",
        r"\z",
        r"\b",
        r"\_",
        r"\n",
        "\\",
        "(?s)a",
        "(?m)a",
        "(?U)a",
        "(?P<n>a)",
        "(?<n>a)",
        "(?=a)",
        "[[:alpha:]]",
        "a{,2}",
        "a{",
        "é",
        "a\n",
        "(" * 1000 + "n" + ")" * 1000,
        "(a|" * 999 + "n" + ")" * 999,
        "(" * (MAX_GROUPS + 1) + "n" + ")" * (MAX_GROUPS + 1),
    ],
)
def test_what_prometheus_may_refuse_or_read_otherwise_is_for_prometheus(value: str) -> None:
    """An expression is one by itself, before it is anchored, and in syntax that RE2 and Go share."""
    assert node_matcher("=~", value) is None
    assert node_matcher("!~", value) is None


@pytest.mark.parametrize(
    "value",
    [
        "(?:[!-~]?){1000}",
        "(?:[!-~]?){1000}" * 40,
        "(?:.*){500}",
        r"\w{1000}" * 40,
        "|".join(f"n{number}.*" for number in range(400)),
        "a" * (MAX_PATTERN - 1) + "*" * 2,
    ],
)
def test_an_expression_that_takes_too_much_is_for_prometheus(value: str) -> None:
    """Its program is too large for a byte of a text to cost no more than 5 us."""
    assert node_matcher("=~", value) is None


def test_an_expression_at_the_bound() -> None:
    """Its work and its memory are told."""
    matcher = node_matcher("=~", "(?:[!-~]?){490}")
    assert matcher is not None
    assert 900 < matcher.steps <= MAX_PROGRAM
    assert matcher.size > RE2_BYTES


def test_the_library_keeps_none_of_them() -> None:
    """It would keep 128, with up to 8 MiB each, where nobody counts them."""
    for number in range(10):
        assert node_matcher("=~", f"n{number}.*") is not None
    assert re2._Regexp._make.cache_info().currsize == 0


def test_the_library_writes_nothing_to_stderr() -> None:
    """Neither about an expression that is wrong, or too large, nor when it does without its automaton."""
    script = """if True:
        from orchestratord.promql.node_matching import node_matcher
        for value in ("(", "a**", "(?:[!-~]?){1000}" * 40, "a{1001}"):
            assert node_matcher("=~", value) is None
        slow = node_matcher("=~", "(?:[!-~]?){490}")
        import string
        text = (string.ascii_letters + string.digits) * 4
        for at in range(40):
            slow.matches(text[at:] + text[:at])
    """
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert done.stderr == b""

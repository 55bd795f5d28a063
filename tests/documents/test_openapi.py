"""etc/openapi.yaml says what the code does: the routes, the limits, the defaults, and nothing else."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from orchestratord import __version__, errors
from orchestratord.config.options import OPTIONS
from orchestratord.nodes.families import BUILT_IN, MAX_VALUE
from orchestratord.nodes.provenance import FIELDS, MAX_INTERVAL, MAX_WORD
from orchestratord.nodes.report import MAX_AHEAD, NodeId
from orchestratord.nodes.report_decoder import MAX_IGNORED, MAX_IGNORED_LENGTH
from orchestratord.promql.params import MAX_POINTS, parse_duration
from orchestratord.web.api.report_remarks import MAX_WARNINGS
from orchestratord.web.server.channel import BoundedChannel
from tests.description import PATH, Operation, check, description, operations, resolved
from tests.wire import Wire, request

SCHEMAS: dict[str, Any] = description()["components"]["schemas"]
DEFAULTS = {option.name: option.default for option in OPTIONS}


def every(node: Any, name: str) -> list[Any]:
    """Return the values of a key, wherever in the description."""
    if isinstance(node, dict):
        own = [node[name]] if name in node else []
        return own + [found for value in node.values() for found in every(value, name)]
    if isinstance(node, list):
        return [found for value in node for found in every(value, name)]
    return []


def test_it_is_openapi() -> None:
    """OpenAPI 3.1, by an independent validator."""
    validate(description())
    assert description()["openapi"].startswith("3.1.")


def test_it_is_of_this_version() -> None:
    """The version is the package's."""
    assert description()["info"]["version"] == __version__


def test_it_is_served_as_it_stands() -> None:
    """There is one description, and a client gets it."""
    answer = Wire().ask("GET", "/openapi.yaml")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/yaml")
    assert answer.body == PATH.read_bytes()


def test_the_index_has_a_line_for_it() -> None:
    """Who looks at / finds it."""
    assert b"GET    /openapi.yaml" in Wire().ask("GET", "/").body


def test_every_route_is_described_and_no_other() -> None:
    """Those of the tree, those past it, and /metrics."""
    root: Any = Wire().site.resource
    tree = {re.sub(r"<(\w+)>", r"{\1}", rule.rule) for rule in root.app.url_map.iter_rules()}
    past = {path.decode() for path in Wire().site.context.hot}
    assert set(description()["paths"]) == tree | past | {"/metrics"}


@pytest.mark.parametrize("path", description()["paths"])
def test_every_method_is_described_and_no_other(path: str) -> None:
    """What `Allow` says; HEAD goes without saying where GET is."""
    described = {one.method for one in operations() if one.path == path}
    answer = Wire().ask("TRACE", path.format(node_id="n", name="n"))
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == described | ({"HEAD"} if "GET" in described else set())
    check(SCHEMAS["Error"], answer.json)


def test_a_node_id_is_the_codes() -> None:
    """Length and characters."""
    (meta,) = get_args(NodeId)[1:]
    told = SCHEMAS["NodeId"]
    assert (told["minLength"], told["maxLength"]) == (meta.min_length, meta.max_length)
    assert told["pattern"] == meta.pattern.replace(r"\Z", "$")


def test_a_report_has_the_built_in_families() -> None:
    """In their order, each with the limits that every value has; and what says how they were measured."""
    assert SCHEMAS["Report"]["properties"].keys() >= FIELDS.keys()
    assert SCHEMAS["Node"]["properties"].keys() >= FIELDS.keys()
    families = [name for name in SCHEMAS["Report"]["properties"] if name not in {"node_id", "timestamp", *FIELDS}]
    assert families == list(BUILT_IN.names)
    for family in BUILT_IN:
        told = resolved(SCHEMAS["Report"]["properties"][family.name])
        assert (told["minimum"], told["maximum"]) == (family.minimum, MAX_VALUE)


def test_limits_are_the_codes() -> None:
    """Numbers in schemas, and numbers in texts."""
    assert SCHEMAS["Batch"]["maxItems"] == DEFAULTS["max-batch"]
    lengths = [value for value in every(description(), "maxLength") if value != SCHEMAS["NodeId"]["maxLength"]]
    assert set(lengths) == {DEFAULTS["limits.max_query_length"], MAX_WORD}
    assert MAX_WORD == MAX_IGNORED_LENGTH == SCHEMAS["Stored"]["properties"]["ignored"]["items"]["maxLength"]
    assert SCHEMAS["Stored"]["properties"]["ignored"]["maxItems"] == MAX_IGNORED
    assert SCHEMAS["Stored"]["properties"]["warnings"]["maxItems"] == MAX_WARNINGS
    assert SCHEMAS["Interval"]["maximum"] == MAX_INTERVAL
    text = PATH.read_text()
    assert f"at most {MAX_POINTS:,} points" in text
    assert f"at most {MAX_AHEAD} s ahead" in text
    assert f"is over {BoundedChannel.MAX_LENGTH:,} bytes" in text


def test_defaults_are_the_codes() -> None:
    """Wherever an option stands beside a number, it is its default."""
    text = PATH.read_text()
    found = [(name, value) for name, value in re.findall(r"`--([a-z-]+)` \(([\d,]+)", text)]
    found += [(name, value) for value, name in re.findall(r"([\d,]+) [a-z]+ \(`--([a-z-]+)`", text)]
    found += [(name, value) for value, name in re.findall(r"more than ([\d,]+) reports\s+\(`--([a-z-]+)`", text)]
    assert {name for name, _ in found} >= {"stale-after", "query-timeout", "max-queries", "max-nodes", "max-batch"}
    for name, value in found:
        number = int(value.replace(",", ""))
        assert number == DEFAULTS[name] or (name, number) == ("max-report-bytes", DEFAULTS[name] // 2**20), name


def test_options_exist() -> None:
    """No option is named that there is not."""
    assert set(re.findall(r"`--([a-z-]+)[`= ]", PATH.read_text())) <= DEFAULTS.keys()


@given(st.text("0123456789ywdhms", max_size=8) | st.from_regex(SCHEMAS["Duration"]["anyOf"][1]["pattern"]))
def test_a_duration_is_the_codes(text: str) -> None:
    """What the pattern matches is what the code reads, except for numbers of more digits that are in bounds as well."""
    pattern = SCHEMAS["Duration"]["anyOf"][1]["pattern"].replace("$", r"\Z")
    try:
        parse_duration(text)
    except ValueError:
        assert not text or not re.match(pattern, text)
    else:
        assert text.isdigit() or re.match(re.sub(r"\{1,\d+\}", "+", pattern), text)


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (errors.BadReport, {"report"}),
        (errors.BodyTooLarge, {"report", "queryByForm"}),
        (errors.UnsupportedBody, {"report"}),
        (errors.TableFull, {"report"}),
        (errors.Draining, {"report"}),
        (errors.BadRequest, {"listNodes"}),
        (errors.Busy, {"listNodes", "scrape"}),
        (errors.UnknownNode, {"getNode", "forgetNode"}),
        (errors.BadQuery, {"query", "queryByForm", "instant", "seriesByForm"}),
        (errors.UpstreamUnavailable, {"query", "rangeByForm"}),
        (errors.Overloaded, {"query", "labels"}),
        (errors.QueryTimeout, {"query", "exemplars"}),
    ],
)
def test_every_fault_is_described(fault: type[errors.Fault], statuses: set[str]) -> None:
    """With its status, its schema, and Retry-After where it has one, on the routes that raise it."""
    for one in operations():
        if one.name in statuses:
            told = one.response(fault.status)
            schema = resolved(told["content"]["application/json"]["schema"])
            assert schema is SCHEMAS["QueryError" if issubclass(fault, errors.QueryFault) else "Error"]
            # Of an upstream's failure it depends on what the upstream has said.
            may_have = fault.retry_after is not None or fault is errors.UpstreamUnavailable
            assert ("Retry-After" in told.get("headers", {})) == may_have


@pytest.mark.parametrize("one", list(operations()), ids=lambda one: one.name)
def test_who_may_is_described(one: Operation) -> None:
    """What has a role may be answered 401 and 403; what has none is open to all."""
    (roles,) = {tuple(entry["bearer"]) for entry in one.told["security"] if entry} or {()}
    guarded = {"401", "403"} & one.told["responses"].keys()
    assert guarded == ({"401", "403"} if roles else set())
    assert set(roles) <= {"report", "query", "scrape", "admin"}
    if roles:
        assert "WWW-Authenticate" in one.response(401)["headers"]


@pytest.mark.parametrize("one", list(operations()), ids=lambda one: one.name)
def test_examples_are_what_the_schemas_say(one: Operation) -> None:
    """Those of requests, and those of answers."""
    parts = [*one.parameters(), *one.told.get("requestBody", {}).get("content", {}).values()]
    for status in one.told["responses"]:
        parts += one.response(int(status)).get("content", {}).values()
    for part in parts:
        for example in [
            *([{"value": part["example"]}] if "example" in part else []),
            *part.get("examples", {}).values(),
        ]:
            check(part["schema"], example["value"])


def test_head_is_answered_wherever_get_is() -> None:
    """As the description says in its first lines."""
    for one in operations():
        if one.method == "GET" and not one.path.startswith(("/api/v1", "/query", "/graph.svg")):
            wire = Wire()
            wire.report(b'{"node_id": "n"}')
            connection = wire.connect()
            connection.send(request("HEAD", one.path.format(node_id="n", name="page.css")))
            (answer,) = connection.answers()
            assert (answer.status, answer.body) == (200, b""), one.path

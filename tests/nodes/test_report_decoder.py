"""The wire format of a report, and its limits."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from orchestratord.errors import AheadOfClock, BadReport, BodyTooLarge, NoFamily
from orchestratord.nodes.exposition import SampleRenderer
from orchestratord.nodes.families import BUILT_IN, Families, Family
from orchestratord.nodes.provenance import MAX_KNOWN, Provenances
from orchestratord.nodes.report_decoder import MAX_IGNORED, SLICE, ReportDecoder
from tests.fakes import FAMILIES, NOW, body, decoder

NUMBERS = st.one_of(
    st.integers(min_value=0, max_value=2**64 - 1),
    st.floats(min_value=0, max_value=1.8e19, allow_nan=False, allow_infinity=False),
)
NODE_IDS = st.text(alphabet="abcXYZ019._:-", min_size=1, max_size=253)
REPORTS = st.fixed_dictionaries({"node_id": NODE_IDS}, optional=dict.fromkeys(FAMILIES, NUMBERS))


@given(REPORTS)
def test_any_valid_report_comes_out_as_it_went_in(sent: dict[str, Any]) -> None:
    """Every value is kept, and a family that is absent is absent, not zero."""
    (got,) = decoder().decode(json.dumps(sent).encode(), NOW).reports
    assert got.node_id == sent["node_id"]
    assert got.values == tuple(sent.get(name) for name in FAMILIES)
    assert got.timestamp is None
    assert got.received_at == NOW
    assert got.provenance is None
    assert len(got.lines) == len(FAMILIES) + 3


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["node_id", *FAMILIES, "x"]), inner)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_body_does_anything_but_decode_or_raise_a_fault(data: bytes) -> None:
    """Whatever comes in, the answer is a report or the contract's error with a JSON path."""
    try:
        decoded = decoder().decode(data, NOW)
    except BadReport as error:
        assert " - at $" in str(error)
    else:
        for report in decoded.reports:
            assert 1 <= len(report.node_id) <= 253
            assert all(value is None or 0 <= value <= 2**64 - 1 for value in report.values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the body is empty: a report is a JSON object - at $"),
        (b" \n", "the body is empty: a report is a JSON object - at $"),
        (b"{", "Input data was truncated - at $"),
        (b"\xff", "JSON is malformed: invalid character (byte 0) - at $"),
        (b'{"node_id":"\xff"}', "the body is not UTF-8 (invalid start byte) - at $"),
        (b"1", "Expected `object`, got `int` - at $"),
        (b"null", "Expected `object`, got `null` - at $"),
        (b"{}", "Object missing required field `node_id` - at $"),
        (b'{"node_id": 7}', "Expected `str`, got `int` - at $.node_id"),
        (b'{"node_id": ""}', "Expected `str` of length >= 1 - at $.node_id"),
        (b'{"node_id": "n", "page_faults": "7"}', "Expected `int | float`, got `str` - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": true}', "Expected `int | float`, got `bool` - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": null}', "Expected `int | float`, got `null` - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": -1}', "Expected `int` >= 0 - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": -0.5}', "Expected `float` >= 0.0 - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": 1e999}', "Number out of range - at $.page_faults"),
        (b'{"node_id": "n", "page_faults": NaN}', "JSON is malformed: invalid character (byte 32) - at $"),
        (b'{"node_id": "n", "page_faults": 18446744073709551616}', "Expected a number up to 2^64-1 - at $.page_faults"),
        (
            body("n", **dict.fromkeys(FAMILIES, 1) | {"fs_write_size_kb": 2**65}),
            "Expected a number up to 2^64-1 - at $.fs_write_size_kb",
        ),
        (b'{"node_id": "n", "timestamp": -1}', "Expected `float` >= 0.0 - at $.timestamp"),
        (b'{"node_id": "n", "timestamp": "now"}', "Expected `float`, got `str` - at $.timestamp"),
        (b'{"node_id": "n"} {}', "JSON is malformed: trailing characters (byte 18) - at $"),
        (b'[{"node_id": "a"}, 7]', "Expected `object`, got `int` - at $[1]"),
        (b'[{"node_id": "a"}, {"node_id": "b", "page_faults": -1}]', "Expected `int` >= 0 - at $[1].page_faults"),
        (b'[{"node_id": "a"}, ', "Input data was truncated - at $"),
    ],
)
def test_what_is_wrong_and_where(data: bytes, said: str) -> None:
    """The error names what is wrong, and the JSON path."""
    with pytest.raises(BadReport) as raised:
        decoder().decode(data, NOW)
    assert str(raised.value) == said


@pytest.mark.parametrize("char", [" ", "\n", '"', "\\", "{", "<", "/", "é", "\x00", "%"])
def test_a_node_id_has_no_character_that_means_something(char: str) -> None:
    """Not in the middle, and not at the end, where a regular expression's `$` would let a newline pass."""
    for node_id in (f"a{char}b", f"a{char}"):
        with pytest.raises(BadReport, match=r"matching regex .* - at \$\.node_id"):
            decoder().decode(json.dumps({"node_id": node_id}).encode(), NOW)


def test_a_node_id_has_at_most_253_characters() -> None:
    """253 are taken, 254 are not."""
    assert decoder().decode(body("a" * 253), NOW).reports
    with pytest.raises(BadReport, match="length <= 253"):
        decoder().decode(body("a" * 254), NOW)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    """A body that would exhaust the stack is refused."""
    with pytest.raises(BadReport, match="nested too deeply - at"):
        decoder().decode(b'{"node_id":"a","x":' + b"[" * 100_000, NOW)


def test_timestamps_may_be_ten_minutes_ahead() -> None:
    """More than that is refused; long ago is not."""
    assert decoder().decode(body(timestamp=NOW + 600), NOW).reports[0].timestamp == NOW + 600
    assert decoder().decode(body(timestamp=0), NOW).reports[0].timestamp == 0
    text = r"at most 600 s ahead of this server's clock, got 601 s - at \$\.timestamp"
    with pytest.raises(AheadOfClock, match=text) as refused:
        decoder().decode(body(timestamp=NOW + 601), NOW)
    assert (refused.value.status, refused.value.outcome) == (400, "ahead")
    with pytest.raises(AheadOfClock, match=r" - at \$\[1\]\.timestamp"):
        decoder().decode(b"[%s,%s]" % (body(), body(timestamp=NOW + 601)), NOW)


def test_unknown_names_are_ignored_and_counted() -> None:
    """In a single report, and over a batch; the known values are kept."""
    decoded = decoder().decode(body(page_faults=3, gpu_seconds=1, x={"y": [1]}), NOW)
    assert (decoded.unknown_names, decoded.ignored) == (2, ("gpu_seconds", "x"))
    assert decoded.reports[0].values[1] == 3
    bodies = [body("a", x=1, page_faults=1), body("b"), body("c", y=1, page_faults=1, x=2)]
    decoded = decoder().decode(b"[" + b",".join(bodies) + b"]", NOW)
    assert (decoded.unknown_names, decoded.ignored) == (3, ("x", "y"))


def test_few_of_the_ignored_names_are_told() -> None:
    """Each once, ten at most, none longer than 64 characters; all are counted."""
    many: dict[str, Any] = {f"{index:03}{'x' * 100}": 1 for index in range(50)}
    for data in (body(page_faults=1, **many), b"[%s,%s]" % (body(page_faults=1), body(page_faults=2, **many))):
        decoded = decoder().decode(data, NOW)
        assert decoded.unknown_names == 50
        assert decoded.ignored == tuple(f"{index:03}{'x' * 61}" for index in range(MAX_IGNORED))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"page_fault": 5}, "'page_fault' (did you mean page_faults?)"),
        ({"fs_read_bytes": 5, "xyz": 1}, "'fs_read_bytes' (did you mean fs_read_count?), 'xyz'"),
        ({"metrics": {"page_faults": 5}}, "'metrics' is an object, and families stand beside node_id"),
        ({"timestamp": 5, "source": "procfs", "interval_seconds": 10, "x": 1}, "'x'"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "'a', 'b', 'c', 2 more"),
        ({"é" * 100: 1}, f"'{ascii('é' * 64)[1:65]}'"),
    ],
)
def test_a_report_without_a_known_name_is_refused(fields: dict[str, Any], said: str) -> None:
    """Its client thinks that it reports values; the error names what came, and the family that was meant."""
    with pytest.raises(NoFamily) as raised:
        decoder().decode(body("n", **fields), NOW)
    assert str(raised.value) == f"no name in the report is a metric family: {said} - at $"
    assert set(raised.value.names) == fields.keys() - {"timestamp", "source", "interval_seconds"}
    with pytest.raises(NoFamily, match=r" - at \$\[1\]\Z"):
        decoder().decode(b"[%s,%s]" % (body(page_faults=1), body("n", **fields)), NOW)


@pytest.mark.parametrize(
    "fields", [{}, {"timestamp": 5}, {"source": "procfs", "interval_seconds": 10}, {"source": "?"}]
)
def test_a_sign_of_life(fields: dict[str, Any]) -> None:
    """A node's id alone, or with what is no family and known, is a report without values."""
    (got,) = decoder().decode(body("n", **fields), NOW).reports
    assert set(got.values) == {None}


def test_what_a_report_says_of_its_measurement() -> None:
    """Is the one object that all such reports share, and a label of each; what was not said is empty there."""
    mine = decoder()
    said = {"source": "ebpf-kprobe", "interval_seconds": 10, "profiler_version": "1.2.0+git~a"}
    one, other = (mine.decode(body(name, page_faults=1, **said), NOW).reports[0] for name in ("a", "b"))
    assert one.provenance is other.provenance
    assert one.provenance is not None
    assert one.provenance.fields == said
    assert one.lines[-1] == (
        b'orchestrator_node_info{node_id="a",source="ebpf-kprobe",interval="10",version="1.2.0+git~a"} 1.0\n'
    )
    (part,) = mine.decode(body("c", interval_seconds=0.5), NOW).reports
    assert part.lines[-1] == b'orchestrator_node_info{node_id="c",source="",interval="0.5",version=""} 1.0\n'
    (beside,) = mine.decode(body("d", hostname="x", page_faults=1, **said), NOW).reports
    assert beside.provenance is one.provenance


WRONG: dict[str, list[Any]] = {
    "source": ["", "a b", 'a"b', "a\n", "é", "x" * 65, 7, None, {}],
    "interval_seconds": [0, -1, 86_400.5, "10", None, True, []],
    "profiler_version": ["", "1/2", "x" * 65, 1.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_information_that_is_not_valid_is_ignored(name: str, value: Any) -> None:
    """It refuses no report, since a client may have had the name for something else; the answer names it."""
    decoded = decoder().decode(body("n", page_faults=3, **{name: value}), NOW)
    assert (decoded.ignored, decoded.unknown_names) == ((name,), 1)
    (report,) = decoded.reports
    assert (report.values[1], report.provenance) == (3, None)


def test_the_memory_of_provenances_is_bounded() -> None:
    """A client that says something else each time does not fill it."""
    known = Provenances()
    first = known.of(("s0", 1.0, "v"))
    assert known.of(("s0", 1.0, "v")) is first
    for index in range(MAX_KNOWN):
        known.of((f"s{index}", 1.0, "v"))
    assert known.of(("s0", 1.0, "v")) is not first
    assert known.of(("s0", 1.0, "v")) == first
    assert known.of((UNSET, UNSET, UNSET)) is None


@pytest.mark.parametrize("data", [b'{"node_id":"a","x":"\xa3"}', b'[{"node_id":"a"},{"node_id":"b","\xff":1}]'])
def test_what_is_ignored_is_utf8_all_the_same(data: bytes) -> None:
    """A body that is no JSON is refused, wherever in it that shows."""
    with pytest.raises(BadReport, match="the body is not UTF-8 .* - at"):
        decoder().decode(data, NOW)


def test_an_unknown_name_does_not_hide_an_error() -> None:
    """The error of a known field is found although an unknown one comes first."""
    with pytest.raises(BadReport, match=r"at \$\.page_faults"):
        decoder().decode(b'{"x": 1, "node_id": "a", "page_faults": "no"}', NOW)


def test_a_batch_in_slices_is_the_same_as_whole() -> None:
    """Slices are in order, and the path of an error counts from the batch's start."""
    bodies = [body(f"n{i}", page_faults=i) for i in range(2 * SLICE + 3)]
    batch = b"[" + b",".join(bodies) + b"]"
    slices = list(decoder().decode_in_slices(batch, NOW))
    assert [len(part.reports) for part in slices] == [SLICE, SLICE, 3]
    assert [report for part in slices for report in part.reports] == decoder().decode(batch, NOW).reports
    bodies[SLICE + 7] = b'{"node_id": "x", "page_faults": []}'
    with pytest.raises(BadReport, match=rf"at \$\[{SLICE + 7}\]\.page_faults"):
        decoder().decode(b"[" + b",".join(bodies) + b"]", NOW)


def test_an_empty_batch_holds_no_report() -> None:
    """It is a batch all the same."""
    assert decoder().decode(b" [] ", NOW).reports == []


def test_a_batch_is_bounded() -> None:
    """One report more than the limit is refused."""
    batch = b"[" + b",".join([body()] * 4) + b"]"
    assert len(decoder(max_batch=4).decode(batch, NOW).reports) == 4
    with pytest.raises(BodyTooLarge, match="the batch has more reports than the limit of 3"):
        decoder(max_batch=3).decode(batch, NOW)


def test_families_of_the_configuration_have_their_own_minimum() -> None:
    """A family may go below zero, or have no lower bound, or a higher one; one family alone works too."""
    more = [Family("a", "A.", minimum=-40.5), Family("b", "B.", minimum=None), Family("c", "C.", minimum=2)]
    families = BUILT_IN.with_more(more)
    custom = ReportDecoder(families, SampleRenderer(families))
    assert custom.decode(body(a=-40, b=-1e18, c=2), NOW).reports[0].values[-3:] == (-40, -1e18, 2)
    for name, value in (("a", -41), ("a", -40.6), ("c", 1)):
        with pytest.raises(BadReport, match=rf"at \$\.{name}"):
            custom.decode(body("n", **{name: value}), NOW)
    alone = Families([Family("only", "One.")])
    assert ReportDecoder(alone, SampleRenderer(alone)).decode(body(only=1), NOW).reports[0].values == (1,)


def test_a_report_cannot_be_changed() -> None:
    """What was decoded stays as it was."""
    report = decoder().decode(body(), NOW).reports[0]
    with pytest.raises(AttributeError):
        report.node_id = "other"  # type: ignore[misc]  # on purpose
    assert isinstance(report, msgspec.Struct)


def test_unknown_names_are_bounded() -> None:
    """A hundred thousand of them would take 30 ms; a long report of known names is taken."""

    def report(names: int) -> bytes:
        return b'{"node_id":"n1","page_faults":1' + b"".join(b',"name%d":1' % number for number in range(names)) + b"}"

    text = "a report with unknown names is over the limit of 65536 bytes - at "
    for long, path in ((report(100_000), r"\$"), (b"[" + report(6000) + b"]", r"\$\[0\]")):
        with pytest.raises(BodyTooLarge, match=text + path):
            decoder().decode(long, NOW)
    assert decoder().decode(report(5000), NOW).unknown_names == 5000
    assert decoder().decode(b'{"node_id":"n1"' + b" " * 100_000 + b"}", NOW).unknown_names == 0

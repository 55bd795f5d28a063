"""From the arguments of a request to a query, checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.errors import BadQuery
from orchestratord.promql.params import Query, arguments, newest, parse, parse_duration, parse_time, passed_through


def parsed(text: str, max_length: int = 1000) -> Query:
    """Return what a URL's parameters ask for."""
    return parse(arguments(text.encode()), max_length=max_length)


def test_an_instant_query() -> None:
    """`q` becomes Prometheus' `query`; the time goes along as it was given."""
    assert parsed("q=up") == Query("/api/v1/query", (("query", "up"),))
    assert parsed("q=up&time=2026-11-23T09:00:00Z&step=9&other=1") == Query(
        "/api/v1/query", (("query", "up"), ("time", "2026-11-23T09:00:00Z"))
    )


def test_a_range_query() -> None:
    """With both ends; the step is 15 s unless told otherwise."""
    assert parsed("q=up&start=1&end=2") == Query(
        "/api/v1/query_range", (("query", "up"), ("start", "1"), ("end", "2"), ("step", "15s"))
    )
    assert parsed("q=up&start=1&end=2&step=1m").params[-1] == ("step", "1m")


def test_a_store_is_asked_for_the_newest() -> None:
    """With what VictoriaMetrics wants to be told for it, once; a range is asked for as ever."""
    plain = parsed("q=up&time=5")
    assert newest(plain) == Query("/api/v1/query", (*plain.params, ("nocache", "1")))
    assert newest(newest(plain)) == newest(plain)
    own = passed_through("/api/v1/query", {"query": ["up"], "nocache": ["0"]}, max_length=100)
    assert newest(own) is own
    ranged = parsed("q=up&start=1&end=2")
    assert newest(ranged) is ranged


def test_a_timeout_is_ours_and_prometheus() -> None:
    """It bounds our exchange, and goes along so that Prometheus stops too."""
    query = parsed("q=up&timeout=1500ms")
    assert query.timeout == 1.5
    assert query.params[-1] == ("timeout", "1500ms")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Missing query parameter 'q'"),
        ("q=", "Missing query parameter 'q'"),
        ("query=up", "Missing query parameter 'q'"),
        ("q=up&start=1", "Missing query parameter 'end': a range query needs both, only 'start' was given"),
        ("q=up&end=1", "Missing query parameter 'start': a range query needs both, only 'end' was given"),
        ("q=up&start=1&end=2&step=0", "invalid parameter 'step': zero or negative steps are not accepted: '0'"),
        ("q=up&start=1&end=2&step=-1", "invalid parameter 'step': zero or negative steps are not accepted: '-1'"),
        ("q=up&start=1&end=2&step=x", "invalid parameter 'step': neither seconds nor a duration like 30s: 'x'"),
        ("q=up&start=2&end=1", "invalid parameter 'end': it is before 'start': '1'"),
        ("q=up&start=x&end=1", "invalid parameter 'start': neither Unix seconds nor RFC 3339: 'x'"),
        ("q=up&time=yesterday", "invalid parameter 'time': neither Unix seconds nor RFC 3339: 'yesterday'"),
        ("q=up&time=nan", "invalid parameter 'time': neither Unix seconds nor RFC 3339: 'nan'"),
        ("q=up&timeout=0", "invalid parameter 'timeout': must be more than 0: '0'"),
        ("q=up&timeout=soon", "invalid parameter 'timeout': neither seconds nor a duration like 30s: 'soon'"),
        (
            "q=up&start=0&end=11001&step=1",
            "invalid parameter 'step': more than 11,000 points a series; use a longer step",
        ),
        ("q=" + "a" * 1001, "invalid parameter 'q': longer than 1000 characters"),
        ("q=%ff", "a parameter is not UTF-8"),
        ("&".join(["a=1"] * 201), "more than 200 parameters"),
    ],
)
def test_every_refusal_names_the_parameter(text: str, said: str) -> None:
    """And what is wrong with it."""
    with pytest.raises(BadQuery) as raised:
        parsed(text)
    assert str(raised.value) == said


def test_the_most_points_are_prometheus_own() -> None:
    """11,000 steps pass, as they do there."""
    assert parsed("q=up&start=0&end=11000&step=1")
    assert parsed("q=up&start=0&end=11000.9&step=1")


def test_what_is_shown_back_is_short_and_printable() -> None:
    """An error text cannot carry a flood, or a line of its own."""
    with pytest.raises(BadQuery) as raised:
        parsed("q=up&time=%0Aevil" + "x" * 500)
    assert len(str(raised.value)) < 200
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1795424400.5", 1795424400.5),
        ("1.7e9", 1.7e9),
        ("-1", -1),
        ("2026-11-23T09:00:00Z", 1795424400),
        ("2026-11-23t10:00:00.25+01:00", 1795424400.25),
        ("2026-11-23T09:00:00.123456789Z", 1795424400.123456),
    ],
)
def test_times(text: str, seconds: float) -> None:
    """As Prometheus takes them."""
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "1_0", "٣", "inf", "1e999", "2026-11-23", "2026-13-01T00:00:00Z", "now"])
def test_no_times(text: str) -> None:
    """Neither what Python alone would take, nor a day alone."""
    with pytest.raises(ValueError, match=r".*"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15", 15),
        ("0.5", 0.5),
        ("15s", 15),
        ("1h30m", 5400),
        ("2d", 172800),
        ("100ms", 0.1),
        ("1w", 604800),
        ("1y", 31536000),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """As Prometheus takes them."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "1 s", "1m1h", "1.5h", "1H", "m5", "1e10", "1e400", "-1e10", "293y", "9" * 400, "9" * 5000 + "ms"]
)
def test_no_durations(text: str) -> None:
    """Units in any other order, fractions of them, or more nanoseconds than Prometheus counts in 63 bits."""
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text)


def test_only_an_ampersand_separates() -> None:
    """A semicolon in PromQL is one, as in Prometheus itself."""
    assert arguments(b'q=up{a=";"}&time=1') == {"q": ['up{a=";"}'], "time": ["1"]}


def test_a_form_comes_before_the_url() -> None:
    """The first value of a parameter counts, and the form's is the first."""
    assert arguments(b"q=form", b"q=url&time=1") == {"q": ["form", "url"], "time": ["1"]}


def test_prometheus_own_routes_get_the_clients_own_parameters() -> None:
    """Whatever they are; several of a name too; a timeout that is none is Prometheus' to refuse."""
    args = arguments(b"match[]=up&match[]=down&limit=5&timeout=never")
    assert passed_through("/api/v1/series", args, max_length=100) == Query(
        "/api/v1/series", (("match[]", "up"), ("match[]", "down"), ("limit", "5"), ("timeout", "never"))
    )
    assert passed_through("/api/v1/query", arguments(b"timeout=2s"), max_length=100).timeout == 2


def test_what_is_passed_through_is_bounded() -> None:
    """Each parameter, and all together."""
    with pytest.raises(BadQuery, match="'query': longer than 100"):
        passed_through("/api/v1/query", {"query": ["x" * 101]}, max_length=100)
    with pytest.raises(BadQuery, match="longer than 200 characters"):
        passed_through("/api/v1/series", {"match[]": ["x" * 90] * 3}, max_length=100)


def test_a_parameters_name_is_shown_as_anything_from_outside() -> None:
    """Short, and on one line."""
    with pytest.raises(BadQuery) as raised:
        passed_through("/api/v1/series", {"a\n" * 1000: ["x" * 101]}, max_length=100)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


@given(st.dictionaries(st.sampled_from(["q", "time", "start", "end", "step", "timeout", "x"]), st.text(max_size=30)))
def test_nothing_does_anything_but_parse_or_refuse(given_args: dict[str, str]) -> None:
    """Whatever the parameters are: a query with its own text in it, or BadQuery."""
    args = {name: [value] for name, value in given_args.items()}
    try:
        query = parse(args, max_length=1000)
    except BadQuery:
        return
    assert query.params[0] == ("query", given_args["q"])
    assert query.path in {"/api/v1/query", "/api/v1/query_range"}


@given(st.binary(max_size=100))
def test_any_bytes_are_arguments_or_refused(data: bytes) -> None:
    """No other exception comes out."""
    try:
        arguments(data)
    except BadQuery:
        return

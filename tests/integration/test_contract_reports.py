"""POST /update_metrics as etc/openapi.yaml describes it, against the real daemon over real sockets."""

from __future__ import annotations

import gzip
import json
import string
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.daemon import FAMILIES, PATIENCE, Daemon, Wire, full_report, head, report, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration

LIMIT = 1_048_576
ALLOWED = string.ascii_letters + string.digits + "._:-"
UPDATE = "/update_metrics"


def refused(answer: requests.Response, status: int, path: str | None = None) -> str:
    """Check that a report was refused with this status, as JSON, and with this path; return the text."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
    body = answer.json()
    assert list(body) == ["error"]
    text: str = body["error"]
    assert path is None or text.endswith(f" - at {path}"), text
    assert "\n" not in text
    return text


def counted(daemon: Daemon, outcome: str) -> float:
    """Return how many reports came to this."""
    count = daemon.sample(f'orchestrator_reports_total{{outcome="{outcome}"}}')
    assert count is not None
    return count


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Give a client that keeps its connection."""
    with requests.Session() as session:
        yield session


def test_a_report_from_a_plain_script(daemon: Daemon) -> None:
    """`requests.post(url, json=...)` stores all eight families, and the answer is the field's."""
    answer = daemon.post(full_report("plain", 100))
    answer.raise_for_status()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    assert daemon.metrics("plain") == {name: 100 + index for index, name in enumerate(FAMILIES)}
    for index, name in enumerate(FAMILIES):
        assert daemon.sample(f'{name}{{node_id="plain"}}') == 100 + index


@pytest.mark.parametrize("node_id", ["n", "a" * 253, ALLOWED, "-", ".", "..", ":", "_"])
def test_node_ids_that_are_taken(daemon: Daemon, node_id: str) -> None:
    """A node id is 1 to 253 characters of A-Z a-z 0-9 . _ : -, and stays what it is."""
    assert daemon.post(report(node_id, page_faults=1)).status_code == 200
    assert node_id in daemon.nodes()
    assert daemon.sample(f'page_faults{{node_id="{node_id}"}}') == 1


def test_node_id_characters_that_are_refused(daemon: Daemon, session: requests.Session) -> None:
    """No other character is taken, wherever in the id it stands."""
    before = daemon.nodes()
    wrong = [chr(code) for code in range(256) if chr(code) not in ALLOWED]
    for character in [*wrong, "\u0131", "\u0660", "\u2028", "\U0001f600"]:
        for node_id in (character, f"n{character}", f"{character}n", f"n{character}n"):
            answer = session.post(daemon.url + UPDATE, json=report(node_id), timeout=PATIENCE)
            refused(answer, 400, "$.node_id")
    assert daemon.nodes() == before


@pytest.mark.parametrize("body", ['{"node_id": "\\ud800"}', '{"node_id": "n\\udfffn"}'])
def test_node_id_of_lone_surrogates(daemon: Daemon, body: str) -> None:
    """Half a character is none."""
    refused(daemon.post_bytes(body, Content_Type="application/json"), 400)


@pytest.mark.parametrize("node_id", ["", "a" * 254, "a" * 100_000, None, True, 1, 1.5, [], ["n"], {}])
def test_node_ids_that_are_refused(daemon: Daemon, node_id: Any) -> None:
    """An id that is empty, too long or no string is refused."""
    refused(daemon.post({"node_id": node_id}), 400, "$.node_id")


def test_missing_node_id(daemon: Daemon) -> None:
    """A report without a node id is refused, and the text names it."""
    assert "node_id" in refused(daemon.post({"page_faults": 1}), 400, "$")


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_are_taken(daemon: Daemon, session: requests.Session, family: str) -> None:
    """Each family takes finite numbers from 0 to 2^64-1, and they come back as the same values."""
    for value in (
        "0",
        "1",
        "0.5",
        "1e3",
        "123456789.25",
        "1e-300",
        "18446744073709551615",
        "1.8e19",
        "9007199254740993",
    ):
        body = f'{{"node_id": "values", "{family}": {value}}}'
        answer = session.post(daemon.url + UPDATE, data=body, timeout=PATIENCE)
        assert answer.json() == {"status": "Metrics updated", "accepted": 1, "superseded": 0}, value
        assert daemon.metrics("values") == {family: json.loads(value)}
        assert daemon.sample(f'{family}{{node_id="values"}}') == float(value)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_are_refused(daemon: Daemon, session: requests.Session, family: str) -> None:
    """Each family refuses what is negative, above 2^64-1, or no number, and names its path."""
    daemon.post(report("steady", **{family: 7})).raise_for_status()
    for value in (
        "-1",
        "-0.5",
        "-1e-300",
        "18446744073709551616",
        "18446744073709551616.0",
        "1.9e19",
        "1e300",
        "1" + "0" * 400,
        "null",
        "true",
        "false",
        '"1"',
        '""',
        '"NaN"',
        "[]",
        "[1]",
        "{}",
    ):
        body = f'{{"node_id": "steady", "{family}": {value}}}'
        answer = session.post(daemon.url + UPDATE, data=body, timeout=PATIENCE)
        refused(answer, 400, f"$.{family}")
    assert daemon.metrics("steady") == {family: 7}


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "nan", "1e999", "-1e999", "0x10", "01", "+1", ".5", "1."]
)
def test_numbers_that_json_does_not_have(daemon: Daemon, value: str) -> None:
    """What is finite in no float, or no number of JSON's, is refused; Python's own NaN and Infinity too."""
    refused(daemon.post_bytes(f'{{"node_id": "odd", "page_faults": {value}}}'), 400)
    assert daemon.metrics("odd") is None


def test_absent_is_not_zero(daemon: Daemon) -> None:
    """A family that is absent is not exported for that node."""
    daemon.post(report("sparse", page_faults=0, fs_read_count=3)).raise_for_status()
    assert daemon.metrics("sparse") == {"page_faults": 0, "fs_read_count": 3}
    exposition = daemon.get("/metrics").text
    lines = [line for line in exposition.splitlines() if '"sparse"' in line]
    assert [line.partition("{")[0] for line in lines] == [
        "page_faults",
        "fs_read_count",
        "orchestrator_node_last_report_timestamp_seconds",
    ]


def test_a_report_of_nothing(daemon: Daemon) -> None:
    """A report without any family is one: the node is there."""
    daemon.post(report("bare")).raise_for_status()
    assert daemon.metrics("bare") == {}
    assert "bare" in daemon.nodes()


def test_a_report_replaces_the_previous_one_whole(daemon: Daemon) -> None:
    """What the later report does not name is gone."""
    daemon.post(full_report("replaced")).raise_for_status()
    daemon.post(report("replaced", page_faults=5)).raise_for_status()
    assert daemon.metrics("replaced") == {"page_faults": 5}


def test_timestamps(daemon: Daemon) -> None:
    """An older timestamp is superseded and changes nothing; an equal, a later and an absent one replace."""
    now = time.time()
    stored = {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    superseded = {"status": "Metrics updated", "accepted": 0, "superseded": 1}
    before = counted(daemon, "superseded")
    assert daemon.post(report("timed", page_faults=1, timestamp=now)).json() == stored
    assert daemon.post(report("timed", page_faults=2, timestamp=now - 0.5)).json() == superseded
    assert daemon.post(report("timed", page_faults=2, timestamp=0)).json() == superseded
    assert daemon.metrics("timed") == {"page_faults": 1}
    assert counted(daemon, "superseded") == before + 2
    assert daemon.post(report("timed", page_faults=3, timestamp=now)).json() == stored
    assert daemon.post(report("timed", page_faults=4, timestamp=now + 590)).json() == stored
    assert daemon.post(report("timed", page_faults=5)).json() == stored
    assert daemon.metrics("timed") == {"page_faults": 5}
    assert daemon.post(report("timed", page_faults=6, timestamp=now - 1)).json() == stored


def test_timestamp_ahead(daemon: Daemon) -> None:
    """A timestamp more than 10 minutes ahead is refused; a little less than that is taken."""
    refused(daemon.post(report("ahead", timestamp=time.time() + 610)), 400, "$.timestamp")
    refused(daemon.post(report("ahead", timestamp=1e300)), 400, "$.timestamp")
    assert daemon.metrics("ahead") is None
    assert daemon.post(report("ahead", timestamp=time.time() + 590)).status_code == 200


@pytest.mark.parametrize("timestamp", [None, True, "1700000000", [], {}])
def test_timestamp_of_the_wrong_type(daemon: Daemon, timestamp: Any) -> None:
    """A timestamp is a number."""
    refused(daemon.post(report("typed", timestamp=timestamp)), 400, "$.timestamp")
    assert daemon.metrics("typed") is None


@pytest.mark.parametrize("count", [0, 1, 3, 2000])
def test_batch(daemon: Daemon, count: int) -> None:
    """An array of reports is stored whole, short or long."""
    names = [f"batch-{count}-{number}" for number in range(count)]
    answer = daemon.post([full_report(name, number) for number, name in enumerate(names)])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"status": "Metrics updated", "accepted": count, "superseded": 0}
    assert set(names) <= set(daemon.nodes())
    if names:
        assert daemon.metrics(names[-1]) == {name: count - 1 + index for index, name in enumerate(FAMILIES)}


def test_batch_counts_what_is_superseded(daemon: Daemon) -> None:
    """A batch says how many of its reports were stored, and how many had been overtaken."""
    now = time.time()
    daemon.post(report("late", timestamp=now)).raise_for_status()
    answer = daemon.post([report("early"), report("late", timestamp=now - 1), report("other")])
    assert answer.json() == {"status": "Metrics updated", "accepted": 2, "superseded": 1}


@pytest.mark.parametrize(("count", "wrong"), [(18, 17), (20, 0), (2000, 17), (2000, 1999)])
def test_batch_whole_or_not_at_all(daemon: Daemon, count: int, wrong: int) -> None:
    """One report that is wrong refuses the batch, with its place in the path, and nothing of it is stored."""
    reports = [full_report(f"whole-{number}") for number in range(count)]
    reports[wrong]["page_faults"] = -1
    refused(daemon.post(reports), 400, f"$[{wrong}].page_faults")
    assert not [name for name in daemon.nodes() if name.startswith("whole-")]


@pytest.mark.parametrize("item", [None, 1, "n", [], [report("n")]])
def test_batch_of_what_is_no_report(daemon: Daemon, item: Any) -> None:
    """An item of a batch is an object."""
    refused(daemon.post([report("first"), item]), 400, "$[1]")
    assert daemon.metrics("first") is None


def test_batch_over_the_limit(start: Callable[..., Daemon]) -> None:
    """A batch of more reports than the limit is 413, and one of just so many is taken."""
    daemon = start("--max-batch", "5")
    refused(daemon.post([report(f"n{number}") for number in range(6)]), 413)
    assert daemon.nodes() == []
    assert daemon.post([report(f"n{number}") for number in range(5)]).json()["accepted"] == 5


def test_unknown_names(daemon: Daemon) -> None:
    """Names in no catalogue are accepted whatever their values, ignored, counted, and told in the answer."""
    before = daemon.sample("orchestrator_unknown_metrics_total")
    assert before is not None
    answer = daemon.post(report("newer", page_faults=1, gpu_faults=2, net={"rx": [None]}))
    stored = {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    assert answer.json() == {**stored, "ignored": ["gpu_faults", "net"]}
    assert daemon.metrics("newer") == {"page_faults": 1}
    assert "gpu_faults" not in daemon.get("/metrics").text
    assert daemon.sample("orchestrator_unknown_metrics_total") == before + 2


@pytest.mark.parametrize("names", [{"page_fault": 1}, {"metrics": {"page_faults": 1}}, {"timestamp": 1, "x": 1}])
def test_no_known_name(daemon: Daemon, names: dict[str, Any]) -> None:
    """A report whose every other name is unknown is 400, alone and in a batch; the id alone is a sign of life."""
    refused(daemon.post(report("misspelt", **names)), 400)
    refused(daemon.post([report("beside", page_faults=1), report("misspelt", **names)]), 400)
    assert daemon.nodes().count("misspelt") == daemon.nodes().count("beside") == 0
    assert daemon.post(report("alive")).json() == {"status": "Metrics updated", "accepted": 1, "superseded": 0}
    assert daemon.metrics("alive") == {}


def test_how_a_node_is_measured(daemon: Daemon) -> None:
    """What a report says of it is told of the node, and exported as labels."""
    said = {"source": "ebpf-kprobe", "interval_seconds": 10, "profiler_version": "1.2"}
    daemon.post(report("told", page_faults=1, **said)).raise_for_status()
    told = daemon.get("/nodes/told").json()
    assert {name: told[name] for name in said} == said
    (listed,) = [one for one in daemon.get("/nodes?details=true").json()["nodes"] if one["node_id"] == "told"]
    assert {name: listed[name] for name in said} == said
    labels = 'node_id="told",source="ebpf-kprobe",interval="10",version="1.2"'
    assert daemon.sample(f"orchestrator_node_info{{{labels}}}") == 1


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_content_types_that_are_taken(daemon: Daemon, content_type: str | None) -> None:
    """JSON, with parameters or without, or no content type at all."""
    with daemon.wire() as wire:
        headers = [f"Content-Type: {content_type}"] if content_type else []
        wire.request("POST", UPDATE, *headers, body=json.dumps(report("typed-body")).encode())
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", "json"],
)
def test_content_types_that_are_refused(daemon: Daemon, content_type: str) -> None:
    """Another explicit type is 415."""
    before = counted(daemon, "unsupported")
    refused(daemon.post_bytes(json.dumps(report("untyped")), Content_Type=content_type), 415)
    assert daemon.metrics("untyped") is None
    assert counted(daemon, "unsupported") == before + 1


def test_gzip(daemon: Daemon) -> None:
    """A body in gzip is taken, a batch too."""
    one = gzip.compress(json.dumps(report("zipped", page_faults=3)).encode())
    assert daemon.post_bytes(one, Content_Encoding="gzip", Content_Type="application/json").json()["accepted"] == 1
    assert daemon.metrics("zipped") == {"page_faults": 3}
    many = gzip.compress(json.dumps([full_report(f"zipped-{number}") for number in range(1000)]).encode())
    assert daemon.post_bytes(many, Content_Encoding="GZIP").json()["accepted"] == 1000


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "gzip, br", "compress"])
def test_encodings_that_are_refused(daemon: Daemon, encoding: str) -> None:
    """Another encoding than gzip is 415."""
    refused(daemon.post_bytes(gzip.compress(b'{"node_id": "coded"}'), Content_Encoding=encoding), 415)
    assert daemon.metrics("coded") is None


def test_broken_gzip(daemon: Daemon) -> None:
    """What is no gzip, ends early, is damaged, or goes on with something else is 400."""
    packed = gzip.compress(json.dumps(full_report("broken")).encode())
    damaged = bytearray(packed)
    damaged[-6] ^= 0xFF
    for body in (b"{}", b"\x1f\x8b", packed[:-1], packed[: len(packed) // 2], bytes(damaged), packed + b"more"):
        refused(daemon.post_bytes(body, Content_Encoding="gzip"), 400, "$")
    assert daemon.metrics("broken") is None


def test_gzip_limit_holds_for_the_unpacked_body(daemon: Daemon) -> None:
    """Unpacked, the body may be as long as the limit, and not a byte longer."""
    text = json.dumps(report("padded")).encode()
    assert daemon.post_bytes(gzip.compress(text.ljust(LIMIT)), Content_Encoding="gzip").status_code == 200
    refused(daemon.post_bytes(gzip.compress(text.ljust(LIMIT + 1)), Content_Encoding="gzip"), 413)


def test_gzip_bomb(daemon: Daemon) -> None:
    """A bomb is refused without ever being unpacked: the daemon's memory does not notice."""
    bomb = gzip.compress(b" " * 200_000_000)
    assert len(bomb) < LIMIT
    before = daemon.peak_memory()
    refused(daemon.post_bytes(bomb, Content_Encoding="gzip"), 413)
    assert daemon.peak_memory() - before < 20_000


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(daemon: Daemon, method: str) -> None:
    """Another method than POST is 405, with Allow, and the connection stays usable."""
    with daemon.wire() as wire:
        wire.request(method, UPDATE, body=b'{"node_id": "methodical"}')
        answer = wire.answer(to_head=method == "HEAD")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.headers["content-type"] == "application/json"
        assert method == "HEAD" or list(answer.json()) == ["error"]
        wire.get("/-/ready")
        assert wire.answer().status == 200
    assert daemon.metrics("methodical") is None


@pytest.mark.parametrize(
    "body", [b"", b" ", b"\r\n\t ", b"{", b'{"node_id": "n1"', b"nonsense", b"{'node_id': 'n1'}", b'{"node_id": "x"}}']
)
def test_what_is_not_json(daemon: Daemon, body: bytes) -> None:
    """An empty body, and one that is not JSON, is 400 at `$`."""
    text = refused(daemon.post_bytes(body), 400, "$")
    assert ("empty" in text) == (not body.strip())


@pytest.mark.parametrize("body", [b"1", b"null", b"true", b'"n1"', b"-1.5"])
def test_json_that_is_no_report(daemon: Daemon, body: bytes) -> None:
    """A report is an object."""
    refused(daemon.post_bytes(body), 400, "$")


@pytest.mark.parametrize(
    "body", [b'{"node_id": "\xff"}', b'{"node_id": "n", "\xc3\x28": 1}', b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"]
)
def test_what_is_not_utf8(daemon: Daemon, body: bytes) -> None:
    """A body that is not UTF-8, or has a byte order mark, is 400."""
    refused(daemon.post_bytes(body), 400)


@pytest.mark.parametrize(
    "before", [b"", b'{"node_id": "deep", "page_faults": ', b'{"node_id": "deep", "x": ', b'[{"x": ']
)
@pytest.mark.parametrize("nest", [b"[", b'{"a":'])
def test_deep_nesting(daemon: Daemon, before: bytes, nest: bytes) -> None:
    """However deeply a body is nested, the answer is 400, and the daemon lives."""
    refused(daemon.post_bytes(before + nest * 100_000), 400)
    assert daemon.metrics("deep") is None


def test_body_of_just_the_limit(daemon: Daemon) -> None:
    """A body as long as the limit is taken; with one byte more it is 413."""
    text = json.dumps(report("long")).encode()
    assert daemon.post_bytes(text.ljust(LIMIT)).status_code == 200
    refused(daemon.post_bytes(text.ljust(LIMIT + 1)), 413)
    assert daemon.post_bytes(iter([text.ljust(LIMIT)])).status_code == 200
    refused(daemon.post_bytes(iter([text.ljust(LIMIT), b" "])), 413)


@pytest.mark.parametrize("size", [LIMIT + 1, 5_000_000, 100_000_000])
def test_long_bodies_are_answered_readably(daemon: Daemon, size: int) -> None:
    """`requests` sends all of a long body before it reads; the 413 reaches it nevertheless, however long the body."""
    before = counted(daemon, "too_large")
    refused(daemon.post_bytes(b"x" * size), 413)
    assert counted(daemon, "too_large") == before + 1


def test_long_chunked_bodies_are_answered_readably(daemon: Daemon) -> None:
    """A body that does not say how long it is gets its 413 as well."""
    refused(daemon.post_bytes(b"x" * 65536 for _ in range(200)), 413)


def test_413_by_content_length_comes_at_once(daemon: Daemon) -> None:
    """A body that says it is too long is refused before a byte of it is sent."""
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, length=10**12))
        answer = wire.answer()
    assert (answer.status, answer.headers["content-type"]) == (413, "application/json")
    assert list(answer.json()) == ["error"]


def test_413_chunked_comes_before_the_end(daemon: Daemon) -> None:
    """A chunked body is refused as soon as it is too long, though it goes on."""
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, "Transfer-Encoding: chunked"))
        for _ in range(17):
            wire.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert wire.answer().status == 413
    assert daemon.get("/-/ready").status_code == 200


def test_413_leaves_the_connection_at_its_end(daemon: Daemon) -> None:
    """After a 413 the connection is closed: what follows is not taken for a request."""
    smuggled = head("DELETE", "/nodes/guarded")
    daemon.post(report("guarded")).raise_for_status()
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, length=LIMIT + 1) + smuggled.ljust(LIMIT + 1) + smuggled)
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert wire.ended()
    assert "guarded" in daemon.nodes()


def test_expect_100_continue(daemon: Daemon) -> None:
    """A client that asks first, as curl does, is told to go on, or that its body is too long."""
    body = json.dumps(report("asked")).encode()
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, "Expect: 100-continue", length=len(body)))
        assert wire.answer().status == 100
        wire.send(body)
        assert wire.answer().status == 200
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, "Expect: 100-continue", length=LIMIT + 1))
        assert wire.answer().status == 413


def test_full_table(start: Callable[..., Daemon]) -> None:
    """A new node in a full table is 429 with Retry-After; known ones are served, and a batch is taken whole or not."""
    daemon = start("--max-nodes", "2")
    assert daemon.post([report("n1", page_faults=1), report("n2", page_faults=1)]).status_code == 200
    answer = daemon.post(report("n3"))
    refused(answer, 429)
    assert int(answer.headers["Retry-After"]) > 0
    assert daemon.post(report("n1", page_faults=2)).status_code == 200
    answer = daemon.post([report("n2", page_faults=2), report("n3")])
    refused(answer, 429)
    assert int(answer.headers["Retry-After"]) > 0
    assert daemon.nodes() == ["n1", "n2"]
    assert (daemon.metrics("n1"), daemon.metrics("n2")) == ({"page_faults": 2}, {"page_faults": 1})
    assert counted(daemon, "table_full") == 2
    assert requests.delete(f"{daemon.url}/nodes/n1", timeout=PATIENCE).status_code == 204
    assert daemon.post(report("n3")).status_code == 200
    refused(daemon.post([full_report(f"m{number}") for number in range(1000)]), 429)
    assert daemon.nodes() == ["n2", "n3"]


def test_half_a_report(daemon: Daemon) -> None:
    """A report whose sender leaves half way is not stored."""
    for headers, part in (
        (head("POST", UPDATE, length=100), b'{"node_id": "half"}'),
        (head("POST", UPDATE, "Transfer-Encoding: chunked"), b'13\r\n{"node_id": "half"}\r\n'),
        (head("POST", UPDATE, "Transfer-Encoding: chunked"), b'ff\r\n{"node_id": "half"}'),
    ):
        with daemon.wire() as wire:
            wire.send(headers + part)
    # An answer to a later request: what came before it has been dealt with.
    daemon.post(report("after-half")).raise_for_status()
    assert "half" not in daemon.nodes()
    assert daemon.metrics("half") is None


def test_a_report_that_trickles_in(start: Callable[..., Daemon]) -> None:
    """A request has one deadline to arrive, whatever trickles in meanwhile; then it is 408, and nothing is stored."""
    daemon = start("--request-timeout", "0.5")
    body = json.dumps(report("slow")).encode()
    with daemon.wire() as wire:
        wire.send(head("POST", UPDATE, length=len(body)))
        wire.socket.setblocking(False)
        sent = 0

        def answered() -> bool:
            nonlocal sent
            try:
                if sent < len(body) - 1:
                    sent += wire.socket.send(body[sent : sent + 1])
                return bool(wire.socket.recv(1, 2))  # MSG_PEEK
            except BlockingIOError:
                return False

        until(answered, "an answer to a report that never comes to its end", 10)
        wire.socket.settimeout(PATIENCE)
        assert wire.answer().status == 408
        assert wire.ended()
    assert daemon.nodes() == []


def test_the_connection_is_usable_after_errors(daemon: Daemon) -> None:
    """A keep-alive connection carries on after 400, 404, 405 and 415."""
    with daemon.wire() as wire:
        for method, target, headers, body, status in (
            ("POST", UPDATE, [], b"nonsense", 400),
            ("POST", UPDATE, ["Content-Type: text/plain"], b"{}", 415),
            ("POST", UPDATE, ["Content-Encoding: br"], b"{}", 415),
            ("POST", UPDATE, ["Content-Encoding: gzip"], b"{}", 400),
            ("GET", UPDATE, [], None, 405),
            ("POST", UPDATE, [], b"", 400),
            ("GET", "/nowhere", [], None, 404),
            ("DELETE", "/nodes/nobody", [], None, 404),
            ("GET", "/query", [], None, 400),
            ("POST", "/nodes", [], b"x", 405),
            ("POST", UPDATE, [], b'{"node_id": "persistent"}', 200),
            ("DELETE", "/nodes/persistent", [], None, 204),
            ("GET", "/-/ready", [], None, 200),
        ):
            wire.request(method, target, *headers, body=body)
            assert wire.answer().status == status, (method, target, body)


def test_pipelined_requests(daemon: Daemon) -> None:
    """Requests that are sent at once are answered one after the other, and a long batch keeps its place."""
    long = json.dumps([full_report(f"piped-{number}") for number in range(500)]).encode()
    parts = [
        (b"nonsense", 400),
        (b'{"node_id": "pipe", "page_faults": 1}', 200),
        (long, 200),
        (b'{"node_id": "pipe", "page_faults": 2}', 200),
        (b'{"node_id": "pipe", "page_faults": -1}', 400),
    ]
    with daemon.wire() as wire:
        sent = b"".join(head("POST", UPDATE, length=len(body)) + body for body, _ in parts)
        wire.send(sent + head("GET", "/nodes/pipe"))
        assert [wire.answer().status for _ in parts] == [status for _, status in parts]
        assert wire.answer().json()["metrics"] == {"page_faults": 2}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /update_metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /update_metrics HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /update_metrics HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /update_metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["tls", "no-version", "negative-length", "two-lengths", "length-and-chunked", "bad-chunk"],
)
def test_what_is_no_http(daemon: Daemon, garbage: bytes) -> None:
    """What is no HTTP request is never answered 200, and the connection ends."""
    with Wire(daemon.port) as wire:
        wire.send(garbage + b"\r\n\r\n")
        received = b""
        try:
            while part := wire.socket.recv(65536):
                received += part
        except ConnectionResetError:
            pass
    assert not received.startswith(b"HTTP/1.1 2")
    assert daemon.get("/-/ready").status_code == 200


@pytest.mark.parametrize("size", [200_000, 5_000_000])
@pytest.mark.parametrize("where", ["target", "header"])
def test_a_head_that_is_too_long(daemon: Daemon, where: str, size: int) -> None:
    """A URL or a header that is too long is answered readably, not with a connection that is just closed."""
    long = "x" * size
    answer = daemon.get(f"/{long}") if where == "target" else daemon.get("/", headers={"X": long})
    assert answer.status_code in {400, 414, 431}

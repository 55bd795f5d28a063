"""Reports that reach a real store: with their own time and values, through kills and outages, until their node ends."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import requests

from orchestratord.nodes.families import LAST_REPORT
from tests.certificates import Authority
from tests.integration.daemon import FAMILIES, Daemon, full_report, report, until
from tests.integration.stores import Prometheus, Store, VictoriaMetrics
from tests.integration.upstream import Exchange, FakeUpstream, refused_by_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Prometheus]:
    """Give a Prometheus that takes remote write."""
    store = Prometheus(tmp_path / "store")
    try:
        store.start()
        yield store
    finally:
        store.close()


def options(store: Prometheus, *more: str) -> tuple[str, ...]:
    """Return what makes a daemon deliver to a store, and ask it."""
    return ("--prometheus", store.url, "--remote-write", f"{store.receiver}", *more)


def samples(store: Prometheus, name: str) -> dict[str, dict[float, float]]:
    """Return a family's samples of the last five minutes: by node, the value at each time."""
    return {
        series["metric"]["node_id"]: {at: float(value) for at, value in series["values"]}
        for series in store.instant(f"{name}[5m]")
    }


def reported(store: Store, faults: int, nodes: set[str]) -> bool:
    """Return whether the store says of all these nodes that they had so many page faults."""
    return nodes <= {series["metric"]["node_id"] for series in store.instant(f"page_faults == {faults}")}


def is_zero(daemon: Daemon, gauge: str) -> bool:
    """Return whether a metric of the daemon's is 0."""
    return daemon.sample(gauge) == 0


def now() -> float:
    """Return the Unix time to the millisecond, as a sample has it."""
    return round(time.time(), 3)


def test_a_report_is_in_the_store_as_it_was_posted(start: Callable[..., Daemon], store: Prometheus) -> None:
    """At its own time, or that of its arrival; with its own values, and the external labels; and nothing else."""
    daemon = start(*options(store, "--external-label", "cluster=blue", "--external-label", "Zone=a"))
    at = now() - 30
    assert daemon.post({**full_report("n1"), "timestamp": at}).status_code == 200
    before = now()
    assert daemon.post(report("n2", page_faults=7)).status_code == 200
    until(lambda: "n2" in samples(store, "page_faults"), "the second report in the store")
    assert [samples(store, name)["n1"] for name in FAMILIES] == [{at: index} for index in range(1, 9)]
    assert samples(store, LAST_REPORT)["n1"] == {at: at}
    ((arrived, value),) = samples(store, "page_faults")["n2"].items()
    assert value == 7
    assert before <= arrived <= now()
    series = store.instant('{node_id=~".+"}')
    assert len(series) == 11
    assert {tuple(sorted(one["metric"])) for one in series} == {("Zone", "__name__", "cluster", "node_id")}
    assert daemon.nodes() == ["n1", "n2"]
    exposition = daemon.get("/metrics").text
    assert "page_faults{" not in exposition
    assert daemon.sample("orchestrator_remote_write_samples_total") == 11


def test_an_ended_node_is_gone_from_instant_answers(start: Callable[..., Daemon], store: Prometheus) -> None:
    """At its stale limit, or when it is forgotten, and not five minutes later; who goes on stays."""
    daemon = start(*options(store, "--stale-after", "4"))
    for node_id in ("ends", "forgotten", "stays"):
        daemon.post(full_report(node_id))
    until(lambda: len(store.instant("page_faults")) == 3, "all of them in the store")
    assert requests.delete(f"{daemon.url}/nodes/forgotten", timeout=10).status_code == 204
    until(lambda: len(store.instant("page_faults")) == 2, "an end of the forgotten one", 5)
    assert requests.delete(f"{daemon.url}/nodes/forgotten", timeout=10).status_code == 404

    def one_stays() -> bool:
        daemon.post(full_report("stays"))
        return [one["metric"]["node_id"] for one in store.instant('{node_id=~".+",__name__!=""}')] == ["stays"] * 9

    # From 10 s after its start on: until then it does not know for how long the store has been there.
    until(one_stays, "an end of the silent one", 10 + 4 + 5)


def test_a_node_of_another_replica_is_not_ended(start: Callable[..., Daemon], store: Prometheus) -> None:
    """It has moved: the first replica asks the store before it ends anything."""
    first, second = (start(*options(store, "--stale-after", "2")) for _ in range(2))
    first.post(full_report("n1"))

    def looked() -> bool:
        second.post(full_report("n1"))
        return first.sample('orchestrator_stale_markers_total{outcome="heard_elsewhere"}') == 1

    until(looked, "a look of the first replica at the store")
    assert first.sample('orchestrator_stale_markers_total{outcome="sent"}') == 0
    assert first.nodes() == second.nodes() == ["n1"]
    assert len(store.instant("page_faults")) == 1


def test_a_kill_loses_nothing_that_was_answered(
    start: Callable[..., Daemon], store: Prometheus, tmp_path: Path
) -> None:
    """The store is away, the daemon is killed, and started again: every report is delivered, once, in order."""
    data = ("--data-dir", str(tmp_path / "data"))
    daemon = start(*options(store), *data)
    store.stop()
    began = now()
    for number in range(200):
        posted = {**full_report(f"n{number % 20}", number), "timestamp": began - 20 + number / 10}
        assert daemon.post(posted).status_code == 200
    daemon.kill()
    daemon = start(*options(store), *data)
    daemon.post({**full_report("n0", 1000), "timestamp": began + 1})
    store.start()
    until(lambda: sum(map(len, samples(store, "page_faults").values())) == 201, "all reports in the store")
    found = samples(store, "page_faults")
    assert found["n0"][began + 1] == 1001
    for number in range(200):
        assert found[f"n{number % 20}"][round(began - 20 + number / 10, 3)] == number + 1
    for gauge in ("oldest_seconds", "bytes", "held_bytes"):
        until(partial(is_zero, daemon, f"orchestrator_spool_{gauge}"), f"a spool whose {gauge} are 0")
    assert daemon.sample('orchestrator_remote_write_samples_dropped_total{reason="refused"}') == 0


def test_a_store_that_hangs_slows_no_report(start: Callable[..., Daemon], store: Prometheus) -> None:
    """It takes connections and says nothing; when it goes on, nothing is missing."""
    daemon = start(*options(store, "--remote_write_http.timeout", "1"))
    daemon.post(full_report("first"))
    until(lambda: store.instant("page_faults"), "a report in the store")
    store.signal(signal.SIGSTOP)
    try:
        for number in range(100):
            assert daemon.post(full_report(f"n{number}")).status_code == 200
        until(lambda: daemon.sample("orchestrator_remote_write_up") == 0, "a store that is known to be away")
    finally:
        store.signal(signal.SIGCONT)
    until(lambda: len(store.instant("page_faults")) == 101, "all reports in the store")


def test_a_bad_report_takes_no_other_with_it(start: Callable[..., Daemon], store: Prometheus) -> None:
    """Prometheus refuses a request whole for one sample that contradicts another: that one is found, and dropped."""
    first, second = (start(*options(store)) for _ in range(2))
    at = now() - 10
    first.post({**full_report("n0", 1), "timestamp": at})
    until(lambda: store.instant("page_faults"), "the first report in the store")
    batch = [{**full_report(f"n{number}", 100), "timestamp": at} for number in range(50)]
    assert second.post(batch).status_code == 200
    until(lambda: len(store.instant("page_faults")) == 50, "all others in the store")
    assert samples(store, "page_faults")["n0"] == {at: 2}
    assert second.sample('orchestrator_remote_write_samples_dropped_total{reason="refused"}') == 9
    assert "refuses 1 reports, which are dropped: answered 400" in second.output()


@pytest.mark.parametrize("window", ["0s", "30m", None])
def test_clocks_that_are_behind_cost_no_good_report(
    start: Callable[..., Daemon], tmp_path: Path, window: str | None
) -> None:
    """Of 3,000 nodes a third is 3 h behind: the store has every report of the others, twice over, and in few requests.

    Prometheus with and without an out-of-order window refuses the third; VictoriaMetrics (None) takes all.
    """
    home = tmp_path / "store"
    store: Store = VictoriaMetrics(home) if window is None else Prometheus(home, out_of_order_window=window)
    try:
        store.start()
        daemon = start("--prometheus", store.url, "--remote-write", store.receiver)
        # Prometheus takes whatever is the first that it is given.
        assert daemon.post({**full_report("first"), "timestamp": now()}).status_code == 200
        until(lambda: daemon.sample("orchestrator_remote_write_samples_total") == 9, "the first report in the store")
        good = {f"n{number}" for number in range(3000) if number % 3}
        for bucket in (1, 2):
            batch = [
                {**full_report(f"n{number}", 100 * bucket), "timestamp": now() - (3 * 3600 if number % 3 == 0 else 5)}
                for number in range(3000)
            ]
            for at in range(0, 3000, 1000):
                assert daemon.post(batch[at : at + 1000]).status_code == 200
            until(partial(reported, store, 100 * bucket + 1, good), "every good report in the store")
        refused = 0 if window is None else 2 * 1000 * 9
        dropped = 'orchestrator_remote_write_samples_dropped_total{reason="refused"}'
        until(lambda: daemon.sample(dropped) == refused, "the end of every bad report")
        requests = daemon.sample('orchestrator_remote_write_requests_total{outcome="refused"}')
        assert requests is not None
        assert requests < 100
    finally:
        store.close()


def test_a_wrong_token_costs_no_report(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """What the store refuses because of who we are waits in the spool until the token is right; it is said and seen."""
    token = tmp_path / "token"
    token.write_text("wrong\n")

    def answer(exchange: Exchange) -> None:
        right = exchange.asked.headers["authorization"] == "Bearer right"
        exchange.reply("204 No Content" if right else "401 Unauthorized", "text/plain", b"" if right else b"who?")

    with FakeUpstream(answer, refuses=refused_by_store) as upstream:
        daemon = start(
            "--remote-write", f"{upstream.url}/api/v1/push", "--remote_write_http.credentials_file", str(token)
        )
        for bucket in range(3):
            daemon.post(full_report("n1", bucket)).raise_for_status()
        until(lambda: (daemon.sample("orchestrator_remote_write_samples_retried_total") or 0) >= 9, "a refusal")
        assert daemon.sample("orchestrator_remote_write_up") == 0
        token.write_text("right\n")
        until(lambda: daemon.sample("orchestrator_remote_write_samples_total") == 27, "all three reports in the store")
        assert daemon.sample('orchestrator_remote_write_samples_dropped_total{reason="refused"}') == 0
        assert "takes no reports, which wait in the spool: answered 401: who?" in daemon.output()


def test_a_disk_that_refuses_costs_no_report(start: Callable[..., Daemon], store: Prometheus, tmp_path: Path) -> None:
    """Reports are answered, and delivered from memory; it is said once, and counted."""
    (tmp_path / "file").write_text("no directory")
    daemon = start(*options(store, "--data-dir", str(tmp_path / "file" / "data")))
    assert daemon.post(full_report("n1")).status_code == 200
    until(lambda: store.instant("page_faults"), "the report in the store")
    until(lambda: (daemon.sample("orchestrator_spool_failures_total") or 0) > 1, "another try")
    for gauge in ("oldest_seconds", "bytes", "held_bytes"):
        until(partial(is_zero, daemon, f"orchestrator_spool_{gauge}"), f"a spool whose {gauge} are 0")
    path = tmp_path / "file" / "data" / "spool"
    assert daemon.output().count(f"the spool is only in memory: {path}: Not a directory") == 1


def test_who_we_are_to_the_store(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """TLS by our own authority, a client's certificate, a token, a tenant; and the protocol's headers."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1")
    authority.issue("client")
    token = tmp_path / "token"
    token.write_text("secret\n")
    seen: list[dict[str, str]] = []
    subjects: list[str] = []

    def answer(exchange: Exchange) -> None:
        connection: Any = exchange.socket
        subjects.append(str(connection.getpeercert()["subject"]))
        seen.append(exchange.asked.headers)
        exchange.reply("204 No Content", "text/plain", b"")

    tls = authority.server_context("server", client_certificates=True)
    with FakeUpstream(answer, tls, refuses=refused_by_store) as upstream:
        daemon = start(
            *("--remote-write", f"{upstream.url}/api/v1/push", "--remote_write_http.headers", "X-Scope-OrgID: blue"),
            *("--remote_write_http.ca_file", str(authority.path), "--remote_write_http.credentials_file", str(token)),
            *("--remote_write_http.cert_file", str(authority.certificate("client"))),
            *("--remote_write_http.key_file", str(authority.key("client"))),
        )
        daemon.post(full_report("n1"))
        until(lambda: daemon.sample("orchestrator_remote_write_samples_total") == 9, "an accepted request")
    assert subjects[0] == "((('commonName', 'client'),),)"
    assert seen[0]["authorization"] == "Bearer secret"
    assert seen[0]["x-scope-orgid"] == "blue"
    assert seen[0]["content-encoding"] == "snappy"
    assert seen[0]["content-type"] == "application/x-protobuf"
    assert seen[0]["x-prometheus-remote-write-version"] == "0.1.0"

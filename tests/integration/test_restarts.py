"""What a restart of the real daemon keeps: after a clean stop everything, after a kill what the last snapshot has."""

from __future__ import annotations

import math
import signal
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.daemon import FAMILIES, PATIENCE, full_report, report, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.daemon import Daemon

pytestmark = pytest.mark.integration

#: More often than a test can wait for: only the stop writes.
AT_STOP = ("--snapshot-every", "3600")


def details(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return all that the daemon tells of each node."""
    return {node["node_id"]: node for node in daemon.get("/nodes", {"details": "true"}).json()["nodes"]}


def snapshots(daemon: Daemon) -> float:
    """Return when the last snapshot was written."""
    return daemon.sample("orchestrator_snapshot_last_success_timestamp_seconds") or 0.0


class Flow:
    """Reports that flow from a thread, each of a new node and on a connection of its own, and what became of them."""

    def __init__(self, daemon: Daemon, name: str = "n") -> None:
        self._daemon = daemon
        self._name = name
        self._end = Event()
        self._thread = Thread(target=self._run)
        #: When each node's report was sent, and when it was answered with 200, in Unix seconds.
        self.answered: dict[str, tuple[float, float]] = {}
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            node_id = f"{self._name}-{number}"
            sent = time.time()
            try:
                self._daemon.post(full_report(node_id, number)).raise_for_status()
            except requests.RequestException:
                return
            self.answered[node_id] = (sent, time.time())

    def end(self) -> None:
        """End it."""
        self._end.set()
        self._thread.join()


def seen_by_a_snapshot(flow: Flow, daemon: Daemon) -> set[str]:
    """Return the nodes whose reports were answered before the daemon looked at its table for its last snapshot."""
    ended = snapshots(daemon)
    looked = ended - (daemon.sample("orchestrator_snapshot_duration_seconds") or math.inf)
    return {name for name, (_, answered) in list(flow.answered.items()) if answered < looked - 0.05}


def test_clean_restart(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Nothing is lost: the first answer of the next run has every node, its values and its age."""
    kept = ("--data-dir", str(tmp_path / "data"), *AT_STOP)
    daemon = start(*kept)
    daemon.post(full_report("whole", 2**64 - 8)).raise_for_status()
    daemon.post(report("part", fs_read_size_kb=0.1, timestamp=time.time())).raise_for_status()
    daemon.post([report(f"batch-{index}", page_faults=index) for index in range(2000)]).raise_for_status()
    before, exposed = details(daemon), daemon.get("/metrics").text
    daemon.stop()
    again = start(*kept)
    after = details(again)
    assert {name: node["metrics"] for name, node in after.items()} == {
        name: node["metrics"] for name, node in before.items()
    }
    for name, node in after.items():
        assert node["last_report"] == pytest.approx(before[name]["last_report"], abs=1)
        assert node["age_seconds"] >= before[name]["age_seconds"]

    def samples(text: str) -> list[str]:
        families = (*FAMILIES, "orchestrator_node_last_report_timestamp_seconds")
        return sorted(line for line in text.splitlines() if line.startswith(families))

    assert samples(again.get("/metrics").text) == samples(exposed)
    again.said("restored 2002 nodes from .*; 0 were stale")


def test_reports_until_the_stop(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Every report answered 200 is there after a clean restart, those too that were answered as the stop began."""
    kept = ("--data-dir", str(tmp_path / "data"), *AT_STOP)
    for _ in range(3):
        daemon = start(*kept)
        flow = Flow(daemon)
        until(lambda flow=flow: len(flow.answered) > 20, "a flow of reports")  # type: ignore[misc]
        daemon.stop()
        flow.end()
        again = start(*kept)
        assert set(again.nodes()) >= set(flow.answered)
        again.stop()


def test_killed_while_reports_flow(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """SIGKILL, again and again: all that the last snapshot saw is back, with its age, and no file is ever torn."""
    kept = ("--data-dir", str(tmp_path / "data"), "--snapshot-every", "0.1")
    daemon = start(*kept)
    for turn in range(4):
        flow = Flow(daemon, f"flow-{turn}")
        sure = until(lambda flow=flow, daemon=daemon: seen_by_a_snapshot(flow, daemon), "a snapshot")  # type: ignore[misc]
        daemon.kill()
        flow.end()
        daemon = start(*kept)
        found = details(daemon)
        assert found.keys() >= sure
        for name, (sent, answered) in flow.answered.items():
            if name in found:
                assert sent - 1 <= found[name]["last_report"] <= answered + 1
        assert "is not restored" not in daemon.output()


def test_stale_meanwhile(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A node whose report has become stale while nobody was there is in no answer."""
    kept = ("--data-dir", str(tmp_path / "data"), "--stale-after", "2", *AT_STOP)
    daemon = start(*kept)
    daemon.post(report("n1")).raise_for_status()
    answered = time.monotonic()
    daemon.stop()
    until(lambda: time.monotonic() > answered + 2, "the end of the node's time")
    again = start(*kept)
    assert again.nodes() == []
    again.said("restored 0 nodes from .*; 1 were stale")


def test_reports_of_before_are_not_forgotten(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A report that is older than the one before the restart is superseded, as if there had been none."""
    kept = ("--data-dir", str(tmp_path / "data"), *AT_STOP)
    now = time.time()
    daemon = start(*kept)
    daemon.post(report("n1", page_faults=1, timestamp=now)).raise_for_status()
    daemon.stop()
    again = start(*kept)
    assert again.post(report("n1", page_faults=2, timestamp=now - 10)).json()["superseded"] == 1
    assert again.metrics("n1") == {"page_faults": 1}


def test_a_forgotten_node_stays_forgotten(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """DELETE is written within two seconds, however rare the snapshots are: a kill after that brings nothing back."""
    kept = ("--data-dir", str(tmp_path / "data"), *AT_STOP)
    daemon = start(*kept)
    for name in ("kept", "drained"):
        daemon.post(report(name)).raise_for_status()
    daemon.stop()
    daemon = start(*kept)
    assert daemon.nodes() == ["drained", "kept"]
    requests.delete(f"{daemon.url}/nodes/drained", timeout=PATIENCE).raise_for_status()
    until(lambda: snapshots(daemon) > 0, "a snapshot without the node")
    daemon.kill()
    assert start(*kept).nodes() == ["kept"]


@pytest.mark.parametrize("what", ["torn", "foreign", "empty", "folder"])
def test_a_bad_file(start: Callable[..., Daemon], tmp_path: Path, what: str) -> None:
    """It is set aside with one line, the daemon starts with an empty table, and the next snapshot is a good one."""
    data = tmp_path / "data"
    kept = ("--data-dir", str(data), *AT_STOP)
    daemon = start(*kept)
    daemon.post(report("n1")).raise_for_status()
    daemon.stop()
    file = data / "snapshot"
    whole = file.read_bytes()
    bad = {"torn": whole[: len(whole) // 2], "foreign": b"\x7fELF" + whole, "empty": b""}
    file.unlink()
    if what == "folder":
        file.mkdir()
    else:
        file.write_bytes(bad[what])
    again = start(*kept)
    assert again.nodes() == []
    assert again.output().count("is not restored") == (what != "folder")
    assert what == "folder" or (data / "snapshot.bad").read_bytes() == bad[what]
    again.post(report("n2")).raise_for_status()
    again.stop()
    if what != "folder":
        assert start(*kept).nodes() == ["n2"]


def test_two_daemons_of_one_folder(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """The second serves without snapshots, says so in one line that names the first, and never touches its file."""
    kept = ("--data-dir", str(tmp_path / "data"))
    first = start(*kept, *AT_STOP)
    first.post(report("first")).raise_for_status()
    second = start(*kept, "--snapshot-every", "0.1")
    assert second.nodes() == []
    second.post(report("second")).raise_for_status()
    until(lambda: (second.sample("orchestrator_snapshot_failures_total") or 0) > 2, "attempts")
    assert second.output().count("not kept across restarts") == 1
    second.said(rf"not kept across restarts: .*in use by process {first.pid};")
    second.kill()
    first.stop()
    assert start(*kept).nodes() == ["first"]


def test_a_folder_that_cannot_be_made(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It costs the snapshots, not the daemon: one line, and everything is served."""
    (tmp_path / "file").touch()
    daemon = start("--data-dir", str(tmp_path / "file" / "data"), "--snapshot-every", "0.1")
    daemon.post(report("n1")).raise_for_status()
    until(lambda: (daemon.sample("orchestrator_snapshot_failures_total") or 0) > 2, "attempts")
    assert daemon.nodes() == ["n1"]
    assert daemon.output().count("not kept across restarts") == 1
    daemon.said("Not a directory; trying again every 0.1 s")


def test_a_restart_under_load(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """With the drain delay nothing that was answered 200 is lost, up to the last moment."""
    kept = ("--data-dir", str(tmp_path / "data"), *AT_STOP)
    daemon = start(*kept, "--drain-delay", "600")
    flow = Flow(daemon)
    until(lambda: len(flow.answered) > 10, "a flow of reports")
    daemon.signal(signal.SIGTERM)
    until(lambda: daemon.get("/-/ready").status_code == 503, "an end of readiness")
    so_far = len(flow.answered)
    until(lambda: len(flow.answered) > so_far + 10, "more reports during the delay")
    daemon.signal(signal.SIGTERM)
    daemon.stop()
    flow.end()
    assert set(start(*kept).nodes()) >= set(flow.answered)

"""The real daemon on a disk that is full, and under a wall clock that is set while it runs."""

from __future__ import annotations

import errno
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.daemon import PATIENCE, TWISTD, Daemon, Server, head, report, run, until
from tests.integration.upstream import FakeUpstream, never

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration

HOUR = 3600


def small_disk(folder: Path) -> tuple[str, ...]:
    """Return the command within which a program finds a disk of 256 kB at `folder`: a mount of its own.

    As root, or as a user whom the kernel lets make namespaces.
    """
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"'
    for rights in ((), ("--user", "--map-root-user")):
        within = ("unshare", *rights, "--mount", "--", "sh", "-c", mount, str(folder))
        if run(*within, "true").returncode == 0:
            return within
    pytest.fail("no mount of one's own: run as root with CAP_SYS_ADMIN, or allow user namespaces")


class Disk:
    """What a daemon sees as its data folder, from outside of its mount."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._folder = Path(f"/proc/{daemon.pid}/root{folder}")

    def snapshot(self) -> bytes:
        """Return the file as it is now."""
        return (self._folder / "snapshot").read_bytes()

    def fill(self) -> None:
        """Leave no byte free."""
        with (self._folder / "filler").open("ab", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def free(self) -> None:
        """Make room again."""
        (self._folder / "filler").unlink()


def failures(daemon: Daemon) -> float:
    """Return how many snapshots have failed."""
    return daemon.sample("orchestrator_snapshot_failures_total") or 0.0


def snapshots(daemon: Daemon) -> float:
    """Return when the last snapshot was written."""
    return daemon.sample("orchestrator_snapshot_last_success_timestamp_seconds") or 0.0


def test_full_disk(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Everything is served, the last good snapshot stays, one line says so; with room again there are new ones."""
    folder = tmp_path / "disk"
    within = small_disk(folder)
    daemon = start("--data-dir", str(folder), "--snapshot-every", "0.1", under=within)
    disk = Disk(daemon, folder)
    daemon.post(report("before")).raise_for_status()
    until(lambda: snapshots(daemon) > 0, "a snapshot")
    good, written = disk.snapshot(), snapshots(daemon)
    disk.fill()
    daemon.post([report(f"n{index}") for index in range(1000)]).raise_for_status()
    until(lambda: failures(daemon) > 3, "snapshots that fail")
    daemon.post(report("after")).raise_for_status()
    assert len(daemon.nodes()) == 1002
    assert daemon.get("/-/healthy").status_code == daemon.get("/-/ready").status_code == 200
    assert (disk.snapshot(), snapshots(daemon)) == (good, written)
    assert daemon.output().count("not kept across restarts") == 1
    daemon.said("No space left on device; trying again every 0.1 s")
    # What is on the full disk is a snapshot that a daemon takes back.
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "snapshot").write_bytes(good)
    assert start("--data-dir", str(tmp_path / "copy")).nodes() == ["before"]
    disk.free()
    daemon.said("the table is kept across restarts again")
    assert snapshots(daemon) > written
    (tmp_path / "copy" / "later").mkdir()
    (tmp_path / "copy" / "later" / "snapshot").write_bytes(disk.snapshot())
    assert len(start("--data-dir", str(tmp_path / "copy" / "later")).nodes()) == 1002


def test_stop_on_a_full_disk(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """The last snapshot cannot be written, and the exit code is 0 all the same."""
    folder = tmp_path / "disk"
    daemon = start("--data-dir", str(folder), "--snapshot-every", "3600", under=small_disk(folder))
    Disk(daemon, folder).fill()
    daemon.post([report(f"n{index}") for index in range(1000)]).raise_for_status()
    daemon.stop()
    daemon.said("not kept across restarts: .*No space left on device")


def test_a_suspension_counts(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Two hours of sleep between two runs are two hours for the snapshot, though CLOCK_MONOTONIC stood still in them.

    The kernel gives a process a CLOCK_BOOTTIME of its own, which is two hours ahead; what it shows cannot be changed
    while the process runs.
    """
    within: tuple[str, ...] = ()
    for rights in ((), ("--user", "--map-root-user")):
        within = ("unshare", *rights, "--time", "--boottime", "7200", "--")
        if run(*within, "true").returncode == 0:
            break
    else:
        pytest.fail("no time namespace: run as root, or allow user namespaces")
    options = ("--data-dir", str(tmp_path / "data"), "--stale-after", "3600")
    first = start(*options)
    first.post(report("n1")).raise_for_status()
    first.stop()
    asleep = start(*options, under=within)
    assert asleep.nodes() == []
    asleep.post(report("n2")).raise_for_status()
    assert 0 <= asleep.get("/nodes/n2").json()["age_seconds"] < PATIENCE
    assert asleep.get("/-/healthy").status_code == 200
    asleep.stop()
    assert start(*options, under=within).nodes() == ["n2"]


class FakeClock:
    """A wall clock for a process, set by the test while it runs; the monotonic clock goes on as ever."""

    def __init__(self, folder: Path) -> None:
        places = ("lib", "lib64", "lib/*")
        libraries = [path for place in places for path in Path("/usr").glob(f"{place}/faketime/libfaketimeMT.so.1")]
        if not libraries:
            pytest.fail("no libfaketimeMT.so.1 under /usr/lib; Debian's package faketime brings it")
        self._file = folder / "offset"
        self.ahead = 0
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: int) -> None:
        """Let the clock be so many seconds ahead of ours from now on."""
        self.ahead = ahead
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.replace(self._file)

    def time(self) -> float:
        """Return the Unix time by it."""
        return time.time() + self.ahead


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_the_wall_clock_steps(start: Callable[..., Daemon], tmp_path: Path, step: int) -> None:
    """Set an hour back or ahead it changes no node's age and no deadline, and stops neither the sweep nor snapshots."""
    clock = FakeClock(tmp_path)
    stale_after = 10.0
    options = ("--stale-after", str(stale_after), "--limits.expire_every", "0.2", "--snapshot-every", "0.2")
    deadlines = ("--request-timeout", "3", "--query-timeout", "3")
    with FakeUpstream(never) as upstream:
        daemon = start("--prometheus", upstream.url, *options, *deadlines, env=clock.env)
        begun = time.monotonic()
        assert daemon.post(report("timed", timestamp=clock.time())).status_code == 200
        with daemon.wire() as trickling, daemon.wire() as asking:
            opened = time.monotonic()
            trickling.send(head("POST", "/update_metrics", length=100))
            asking.get("/query?q=up")
            upstream.until_open(1)
            clock.set(step)
            until(lambda: abs(_date(daemon) - clock.time()) < 60, "the daemon's clock to be set")
            # Reports are taken, and no node has aged by the step.
            assert daemon.post(report("after", timestamp=clock.time())).status_code == 200
            timed = daemon.get("/nodes/timed")
            passed = time.monotonic() - begun
            assert timed.status_code == 200 or passed >= stale_after
            assert timed.status_code == 404 or 0 <= timed.json()["age_seconds"] <= passed
            assert daemon.get("/-/healthy").status_code == 200
            # The deadlines of what was under way are what they were, and so are those of what comes after.
            assert (asking.answer().status, trickling.answer().status) == (504, 408)
            assert time.monotonic() - opened >= 2.9
        asked = time.monotonic()
        assert daemon.get("/query", {"q": "up"}).status_code == 504
        assert time.monotonic() - asked >= 2.9

        # A node goes when its time has come, and the sweep frees its memory.
        def expired() -> bool:
            daemon.post(report("kept")).raise_for_status()
            return (daemon.sample("orchestrator_nodes_expired_total") or 0) >= 2

        until(expired, "the sweep")
        assert stale_after <= time.monotonic() - begun
        assert daemon.nodes() == ["kept"]
        # Snapshots are written.
        daemon.post(report("last")).raise_for_status()
        until(lambda: abs(snapshots(daemon) - clock.time()) < 60, "a snapshot by the clock that was set")
        daemon.stop()
    # And the next run, whatever time it believes to be, knows the ages.
    clock.set(-step)
    data = daemon.home / ".local" / "state" / "orchestratord"
    again = start("--stale-after", "600", "--data-dir", str(data), env=clock.env)
    assert set(again.nodes()) == {"kept", "last"}
    assert again.get("/nodes/last").json()["age_seconds"] < PATIENCE


def test_timestamps_after_the_clock_was_set_back(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Reports with a timestamp of what is the future now are refused, as the contract has it; those without are taken.

    A timestamp older than that of the fresh report in the table is superseded, until that one is stale.
    """
    clock = FakeClock(tmp_path)
    daemon = start("--stale-after", "3", env=clock.env)
    before = clock.time()
    daemon.post(report("n1", timestamp=before)).raise_for_status()
    clock.set(-HOUR)
    until(lambda: abs(_date(daemon) - clock.time()) < 60, "the daemon's clock to be set")
    refused = daemon.post(report("n1", timestamp=before))
    assert refused.status_code == 400
    assert "$.timestamp" in refused.json()["error"]
    assert daemon.post(report("n2")).status_code == 200

    def accepted() -> bool:
        counts: dict[str, int] = daemon.post(report("n1", timestamp=clock.time())).json()
        assert counts["accepted"] + counts["superseded"] == 1
        return counts["accepted"] == 1

    until(accepted, "the report from before the step to be stale")
    assert "n1" in daemon.nodes()


def test_a_profiler_whose_clock_is_set_back(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It measures and reports on; the node is back in the table once its report from the future is stale."""
    clock = FakeClock(tmp_path)
    daemon = start("--stale-after", "10")
    options = ("--orchestrator", daemon.url, "--node-id", "n1", "--interval", "1", "--source", "procfs")
    profiler = Server((TWISTD, "--nodaemon", "--pidfile=", "profiler", *options), tmp_path / "profiler", clock.env)

    def counted(outcome: str) -> float:
        return daemon.sample(f'orchestrator_reports_total{{outcome="{outcome}"}}') or 0.0

    try:
        until(lambda: daemon.nodes() == ["n1"], "a first report")
        clock.set(-HOUR)
        until(lambda: counted("superseded") > 0, "a report from an hour ago")
        before = counted("accepted")
        until(lambda: counted("accepted") > before and daemon.nodes() == ["n1"], "a report that is taken again")
    finally:
        profiler.close()


def _date(daemon: Daemon) -> float:
    """Return the daemon's wall clock, to the second."""
    return parsedate_to_datetime(daemon.get("/-/ready").headers["Date"]).timestamp()

"""From Settings to the table of nodes, what expires its nodes, and what keeps it across restarts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestratord.nodes.departed import DepartedNodes
from orchestratord.nodes.expiry import ExpirySweep
from orchestratord.nodes.exposition import SampleRenderer, unrendered
from orchestratord.nodes.snapshot_file import SnapshotFile
from orchestratord.nodes.snapshot_format import Moment
from orchestratord.nodes.snapshot_service import SnapshotService, in_own_thread
from orchestratord.nodes.store import NodeStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestratord.config.settings import Settings
    from orchestratord.nodes.directory import NodeDirectory
    from orchestratord.nodes.report import Renderer
    from orchestratord.runtime.clock import Clocks
    from orchestratord.telemetry.self_metrics import SelfMetrics

#: Most seconds between sweeps with remote write: a node's series should end soon after the node.
_SWEEP_EVERY = 2.0


class Nodes(NamedTuple):
    """The table of this process and what looks after it.

    `render` makes a report's lines of /metrics. `sweep` and `snapshots` are services; there are no snapshots with
    `--snapshot-every 0`.
    """

    store: NodeStore
    departed: DepartedNodes
    render: Renderer
    sweep: ExpirySweep
    snapshots: SnapshotService | None


class NodeSource(NamedTuple):
    """Where the API looks nodes up, and how it forgets one: in this process' table, or in the shared store.

    `forget` returns whether there was a fresh node of that id.
    """

    directory: NodeDirectory
    forget: Callable[[str], Awaitable[bool]]


def make_nodes(reactor: Any, settings: Settings, telemetry: SelfMetrics, clocks: Clocks) -> Nodes:
    """Return the empty table. Its services are not started, and no snapshot is read yet."""
    store = NodeStore(stale_after=settings.stale_after, max_nodes=settings.max_nodes)
    departed = DepartedNodes(store, clocks)
    store.observers.append(departed)
    render: Renderer = SampleRenderer(settings.families) if settings.nodes_exposed else unrendered
    every = settings.expire_every if settings.remote_write is None else min(settings.expire_every, _SWEEP_EVERY)
    sweep = ExpirySweep(reactor, store, telemetry, clocks.monotonic, every, running=time.monotonic)
    snapshots = None
    if settings.snapshot_every:
        boot = _boot()
        snapshots = SnapshotService(
            reactor,
            store,
            SnapshotFile(settings.data_dir),
            telemetry,
            lambda: Moment(clocks.time(), clocks.monotonic(), boot),
            families=settings.families,
            render=render,
            every=settings.snapshot_every,
            in_thread=lambda work: in_own_thread(reactor, work),
            departed=departed,
        )
    return Nodes(store, departed, render, sweep, snapshots)


def _boot() -> str:
    """Return a name for the time since the machine was started and the clock that measures it; "" if unknown.

    The clock is part of the name because earlier versions wrote CLOCK_MONOTONIC, which lacks all suspensions.
    """
    try:
        return "boottime " + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""

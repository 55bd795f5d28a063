"""The metric families that a profiler may report: eight that are built in, and those of the configuration file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from orchestratord.nodes.provenance import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The largest value of a sample: profilers count in unsigned 64-bit integers.
MAX_VALUE = 2**64 - 1

#: The family that goes along with each report: the time of a node's latest report, in Unix seconds.
LAST_REPORT = "orchestrator_node_last_report_timestamp_seconds"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_RESERVED_NAMES = frozenset({"node_id", "timestamp", *FIELDS})
_RESERVED_PREFIXES = ("orchestrator_", "process_", "python_", "scrape_", "__")
_MAX_NAME = 200
_MAX_HELP = 1000


@dataclass(frozen=True)
class Family:
    """One metric family with the one label `node_id`.

    `minimum` is the smallest value that a report may have; with None any finite number is valid. `unit` is shown with
    values on the pages, and is OpenMetrics' UNIT line if the name ends with it.

    Raises ValueError, whose text names the error, for a family that a scraper would refuse.
    """

    name: str
    help: str
    unit: str = ""
    kind: Literal["gauge", "counter"] = "gauge"
    minimum: float | None = 0

    def __post_init__(self) -> None:
        if not _NAME.match(self.name) or len(self.name) > _MAX_NAME:
            raise ValueError(f"{self.name!r} is not a Prometheus metric name of at most {_MAX_NAME} characters")
        if self.name in _RESERVED_NAMES or self.name.startswith(_RESERVED_PREFIXES):
            raise ValueError(f"the name {self.name!r} is reserved")
        if self.kind not in ("gauge", "counter"):
            raise ValueError(f"kind must be gauge or counter, not {self.kind!r}")
        if self.kind == "counter" and not self.name.endswith("_total"):
            raise ValueError(f"the name of a counter must end with _total, as OpenMetrics has it: {self.name!r}")
        if self.kind == "gauge" and self.name.endswith("_total"):
            raise ValueError(f"the name of a gauge must not end with _total: {self.name!r}")
        if not self.help.strip() or len(self.help) > _MAX_HELP:
            raise ValueError(f"help must say in 1 to {_MAX_HELP} characters what {self.name!r} is")
        if self.unit and not re.fullmatch(r"[a-zA-Z0-9_]{1,50}", self.unit):
            raise ValueError(f"unit must be letters, digits and _, not {self.unit!r}")
        if self.kind == "counter" and (self.minimum is None or self.minimum < 0):
            raise ValueError(f"a counter's minimum is 0 or more, not {self.minimum!r}")
        if self.minimum is not None and not -MAX_VALUE <= self.minimum <= MAX_VALUE:
            raise ValueError(f"minimum must be a finite number, not {self.minimum!r}")


class Families:
    """The families in the order in which they are exported. Immutable.

    Raises ValueError if a name occurs twice.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = tuple(families)
        seen: set[str] = set()
        for family in self._families:
            if family.name in seen:
                raise ValueError(f"the metric family {family.name!r} is defined twice")
            seen.add(family.name)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The families' names, in the order of `NodeReport.values`."""
        return tuple(family.name for family in self._families)

    def with_more(self, families: Iterable[Family]) -> Families:
        """Return these families followed by those; raises ValueError as the class does."""
        return Families((*self._families, *families))


#: The HELP texts do not name the length of a bucket. It is the profiler's interval, 10 s by default, and a label of
#: `orchestrator_node_info`.
BUILT_IN = Families(
    (
        Family(
            "mem_bytes_allocated",
            "Kernel memory allocated (kmalloc) on the node in its last bucket, in bytes.",
            "bytes",
        ),
        Family("page_faults", "Page faults on the node in its last bucket.", "faults"),
        Family("ctx_switches_graceful", "Voluntary context switches on the node in its last bucket.", "switches"),
        Family(
            "ctx_switches_forced",
            "Involuntary context switches on the node in its last bucket (the task was still runnable).",
            "switches",
        ),
        Family(
            "fs_read_count",
            "Read calls at the VFS (files, pipes, sockets) on the node in its last bucket.",
            "calls",
        ),
        Family(
            "fs_read_size_kb",
            "Bytes that read calls at the VFS (files, pipes, sockets) returned on the node in its last bucket,"
            " in kB of 1000 bytes.",
            "kb",
        ),
        Family(
            "fs_write_count",
            "Write calls at the VFS (files, pipes, sockets) on the node in its last bucket.",
            "calls",
        ),
        Family(
            "fs_write_size_kb",
            "Bytes that write calls at the VFS (files, pipes, sockets) took on the node in its last bucket,"
            " in kB of 1000 bytes.",
            "kb",
        ),
    )
)

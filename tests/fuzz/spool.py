"""Any bytes as a segment of the spool: whole rows come out of it or a damage is counted, and the next segment follows.

What has no head of its own gets one, so that frames are reached.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestratord.remote_write.sample_row import SampleRow
from orchestratord.remote_write.wal.frames import frames, head
from orchestratord.remote_write.wal.log import WriteAheadLog
from tests.fakes import NOW

NAMES = ("a", "b")
_LAST = b"\x04" + bytes(8) + b"12345678" * 2 + b"last"


def check(data: bytes) -> None:
    """Fail unless the segment is read to its end, or passed over."""
    way, rest = data[:1], data[1:]
    content = rest if way == b"w" else head(NAMES) + rest
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{1:016x}").write_bytes(content)
        (Path(folder) / f"{2:016x}").write_bytes(head(NAMES) + frames([_LAST], 5)[0][0])
        spool = WriteAheadLog(Path(folder), NAMES, max_bytes=1 << 20, now=lambda: NOW)
        spool.open()
        rows: list[SampleRow] = []
        at = spool.start
        while (batch := spool.read(at, 2)) is not None:
            assert batch.end > at
            assert all(len(row.values) == 8 * len(NAMES) and row.node_id for row in batch.rows)
            rows += batch.rows
            at = batch.end
        assert rows[-1] == SampleRow(b"last", 0, b"12345678" * 2)
        assert spool.problem is None
        assert spool.unreadable or len(content) >= len(head(NAMES))
        spool.release(at)
        spool.close()
        assert spool.bytes == 0

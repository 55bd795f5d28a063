"""Networks that a test makes for a daemon: namespaces of the kernel."""

from __future__ import annotations

import ctypes
import os


def enter_network(pid: int) -> None:
    """Have this thread, and no other, open its sockets in the network of a process."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.setns(namespace, 0) == 0, os.strerror(ctypes.get_errno())
    os.close(namespace)

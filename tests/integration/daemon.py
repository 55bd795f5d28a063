"""What the integration tests share: the real daemon as twistd starts it, raw HTTP, and deadlines instead of sleeps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from tests.options import flags_and_environment
from tests.ports import free_port as free_port  # noqa: PLC0414 - for who has the rest from here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
#: The script that pip has put beside the interpreter.
TWISTD = str(Path(sys.executable).with_name("twistd"))
#: By its path: some tests take PATH away.
SETPRIV = shutil.which("setpriv") or "setpriv"
LOOPBACK = "tcp:0:interface=127.0.0.1"
#: Seconds for what takes a moment on an idle machine, and longer on a busy one.
PATIENCE = 30.0

FAMILIES = (
    "mem_bytes_allocated",
    "page_faults",
    "ctx_switches_graceful",
    "ctx_switches_forced",
    "fs_read_count",
    "fs_read_size_kb",
    "fs_write_count",
    "fs_write_size_kb",
)

_never = Event()


def pause(seconds: float = 0.02) -> None:
    """Let a moment pass between two looks at the world."""
    _never.wait(seconds)


def until(check: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Return the first result of `check` that is true; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        pause()
    return result


def tied(*command: str) -> list[str]:
    """Return the command such that the kernel ends it when this process ends, however that happens.

    To be started from the main thread: for the kernel it is the thread that counts.
    """
    return [SETPRIV, "--pdeathsig", "KILL", "--", *command]


def run(*command: str, given: str = "", seconds: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with this on its stdin; return what it said. One that is missing fails the test."""
    return subprocess.run(
        tied(*command), capture_output=True, text=True, timeout=seconds, check=False, input=given, **options
    )


def asked(method: str, url: str, **options: Any) -> requests.Response:
    """Make a request on a connection of its own, as `requests.request` does, and return the answer.

    The environment is not read for proxies: pytest writes each test's name into it, and a thread that goes on from one
    test to the next would stumble over that.
    """
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=PATIENCE, **options)


def report(node_id: str, **fields: Any) -> dict[str, Any]:
    """Return a report."""
    return {"node_id": node_id, **fields}


def full_report(node_id: str, first: int = 1) -> dict[str, Any]:
    """Return a report of all eight families, with the values `first`, `first` + 1 and so on."""
    return report(node_id, **{name: first + index for index, name in enumerate(FAMILIES)})


def session_members(session: int) -> dict[int, str]:
    """Return the processes of a session, but zombies, and their names."""
    members = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # ended meanwhile
        state, _, _, sid, *_ = rest.split()
        if int(sid) == session and state != "Z":
            members[int(directory.name)] = name
    return members


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment with a home directory of its own, and without settings of the daemon."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORCHESTRATOR", "PROMETHEUS", "PROFILER", "XDG_")) and name != "PYTHONPATH"
    }
    return {**ours, "HOME": str(home), **(more or {})}


class Server:
    """A server that a test has started: a process in a session of its own, whose output goes to a file.

    Nothing of it outlives this object: `close` ends what is left of it.
    """

    def __init__(self, command: Iterable[str], home: Path, env: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.log = home / "output"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                tied(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=home,
                env=environment(home, env),
                start_new_session=True,
            )
        self.pid = self.process.pid
        #: Whether a test has sent it a signal.
        self.signalled = False

    def output(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(errors="replace")

    def said(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Return where its output matches the pattern, as soon as it does; fail if it ends without."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            match = re.search(pattern, self.output())
            assert match or not ended, f"it ended without saying {pattern!r}:\n{self.output()}"
            return match

        found = until(look, f"{pattern!r} in the output of {self.process.args!r}", seconds)
        assert found is not None
        return found

    def members(self) -> dict[int, str]:
        """Return the processes that it and its children are, by id, and their names."""
        return session_members(self.pid)

    def member(self, name: str) -> int:
        """Return the process of that name, as soon as there is one."""

        def look() -> int | None:
            return next((pid for pid, found in self.members().items() if found == name), None)

        pid = until(look, f"a child named {name!r}")
        assert pid is not None
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: to itself alone, not to its children."""
        self.signalled = True
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return its exit code."""
        return self.process.wait(seconds)

    def gone(self) -> None:
        """Return when nothing of it is left."""
        until(lambda: not self.members(), f"an end of {self.members()}", 10)

    def close(self) -> None:
        """End what is left of it, by force."""
        for pid in session_members(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(PATIENCE)


class Daemon(Server):
    """`twistd orchestrator` in the foreground, on a loopback port of the kernel's choice unless told otherwise.

    `under` is a program that starts it, such as `prlimit` or `unshare` with its options.
    """

    def __init__(
        self,
        home: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        listen: str | None = LOOPBACK,
        under: Iterable[str] = (),
    ) -> None:
        listening = ("--listen", listen) if listen else ()
        flags, environ = flags_and_environment(options)
        command = (TWISTD, "--nodaemon", "--pidfile=", "orchestrator", *listening, *flags)
        super().__init__((*under, *command), home, {**environ, **(env or {})})
        self.port = 0
        #: Whether a test has ended it in a way that leaves no exit code 0.
        self.killed = False

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    def started(self) -> Daemon:
        """Return this daemon as soon as it serves."""
        self.port = int(self.said(r"serves on .*?127\.0\.0\.1:(\d+)")[1])
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it cleanly, unless it was told to end already: exit code 0, and no process left."""
        if not self.signalled:
            self.signal(number)
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.output()}"
        assert self.members() == {}
        assert "Traceback" not in self.output(), self.output()
        assert "Unhandled" not in self.output(), self.output()

    def kill(self) -> None:
        """End it by force, and only it."""
        self.killed = True
        self.signal(signal.SIGKILL)
        self.wait()

    def post(self, body: Any, **options: Any) -> requests.Response:
        """Post a report as the profilers in the field do: on a connection of its own."""
        return asked("POST", f"{self.url}/update_metrics", json=body, **options)

    def post_bytes(self, body: Any, **headers: str) -> requests.Response:
        """Post a body as it is, with these headers (`Content_Type=...`)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asked("POST", f"{self.url}/update_metrics", data=body, headers=named)

    def get(self, path: str, params: Any = None, **options: Any) -> requests.Response:
        """Get a path."""
        return asked("GET", f"{self.url}{path}", params=params, **options)

    def nodes(self) -> list[str]:
        """Return the ids at /nodes."""
        answer = self.get("/nodes")
        assert answer.status_code == 200
        names: list[str] = answer.json()["nodes"]
        return names

    def metrics(self, node_id: str) -> dict[str, float] | None:
        """Return the values stored for a node; None if there is no such node."""
        answer = self.get(f"/nodes/{node_id}")
        if answer.status_code == 404:
            return None
        values: dict[str, float] = answer.json()["metrics"]
        return values

    def sample(self, series: str) -> float | None:
        """Return the value of a series of /metrics, as it is written there; None if it is not there."""
        for line in self.get("/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == series:
                return float(value)
        return None

    def peak_memory(self) -> int:
        """Return the most memory that it ever had in use, in kB."""
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match
        return int(match[1])

    def memory(self) -> int:
        """Return how much memory it has in use now, in kB."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match
        return int(match[1])

    def wire(self) -> Wire:
        """Return a connection."""
        return Wire(self.port)


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it came over the wire; the headers' names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


class Wire:
    """A TCP connection to the daemon, on which a test says what it wants, byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Close it by a reset, as the kernel does for a process that ends with unread data."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def half_close(self) -> None:
        """Say that nothing more is sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def get(self, target: str, *headers: str) -> None:
        """Send a GET, of a target that is sent as it is."""
        self.request("GET", target, *headers)

    def request(self, method: str, target: str, *headers: str, body: bytes | None = None) -> None:
        """Send a request, whole."""
        self.send(head(method, target, *headers, length=None if body is None else len(body)) + (body or b""))

    def answer(self, *, to_head: bool = False) -> RawAnswer:
        """Read one answer, and not a byte more."""
        status = self._file.readline()
        assert status.startswith(b"HTTP/1.1 "), f"no answer but {status!r}"
        headers: dict[str, str] = {}
        while (line := self._file.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        code = int(status.split()[1])
        return RawAnswer(code, headers, b"" if to_head or code in {100, 204, 304} else self._body(headers))

    def ended(self) -> bool:
        """Wait until the daemon closes the connection; return whether nothing came before that."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._file.readline(), 16):
                parts.append(self._file.read(size))
                self._file.readline()
            self._file.readline()
            return b"".join(parts)
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return self._file.read()


def head(method: str, target: str, *headers: str, length: int | None = None) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: orchestrator", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()

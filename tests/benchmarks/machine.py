"""What the kernel and the package databases tell: cores, processor time, memory, connections, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALL = sorted(os.sched_getaffinity(0))
#: The core of the server under test, of the clients, and all of them: Pushgateway, VictoriaMetrics, Prometheus.
SERVER, CLIENT, ALL = {_ALL[0]}, {_ALL[-1]}, set(_ALL)

_PROGRAMS = {
    "wrk": "wrk",
    "prometheus": "prometheus",
    "prometheus-pushgateway": "prometheus-pushgateway",
    "victoria-metrics": "victoria-metrics",
    "taskset": "util-linux",
    "setpriv": "util-linux",
}
_MODULES = {"flask": "Flask", "gunicorn": "gunicorn"}
_LIBRARIES = ("Twisted", "klein", "treq", "prometheus_client", "msgspec", "isal", "cramjam", "Flask", "gunicorn")
_ESTABLISHED = "01"


def missing() -> str | None:
    """Return one line that says what to install, or None."""
    packages = sorted({package for program, package in _PROGRAMS.items() if not shutil.which(program)})
    if packages:
        return f"missing Debian packages: apt-get install {' '.join(packages)}"
    absent = [module for module, package in _MODULES.items() if _version(package) is None]
    return f"missing Python packages: pip install {' '.join(absent)} (the extra 'bench')" if absent else None


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, cores: set[int]) -> None:
    """Move a running process, with all its threads, to these cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} has no VmRSS")


def connections_to(port: int) -> int:
    """Return how many connections to a port of 127.0.0.1 are open, seen from the clients' end."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows)


def connections_taken() -> int:
    """Return how many connections all servers of this machine have ever been given."""
    names, numbers = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:"]
    return int(numbers[names.index("PassiveOpens")])


def versions(packages: Iterable[str]) -> list[str]:
    """Return lines about the machine, and the versions of Python's libraries and of these Debian packages."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    libraries = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES if _version(name))
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *packages]
    debian = subprocess.run(query, capture_output=True, text=True, check=False).stdout.rstrip(", ")
    return [
        f"Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"Machine: {model}, {len(_ALL)} cores, Linux {platform.release()}",
        f"Python {platform.python_version()}; orchestratord {_version('orchestratord')}; {libraries}",
        f"Debian: {debian}" if debian else "Debian packages: unknown",
    ]


def description() -> list[str]:
    """Return these lines, and which core is whose."""
    return [
        *versions(package for package in dict.fromkeys(_PROGRAMS.values()) if package != "util-linux"),
        f"Core {min(SERVER)}: the daemon, floor, Flask's own server, plain proxy. Core {min(CLIENT)}: the clients.",
        f"All {len(ALL)} cores: gunicorn, Pushgateway, VictoriaMetrics, and Prometheus as an upstream or a receiver.",
        f"Prometheus asked directly: core {min(SERVER)}, as ours.",
    ]


def python_program(name: str) -> str:
    """Return the path of a program that stands beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

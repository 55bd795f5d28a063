"""`twistd profiler`: its options, and the service that they describe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from twisted.application.service import MultiService
from twisted.python import usage

from orchestratord.command_line import Options as OneLineOptions
from orchestratord.profiler.agent import SOURCES, ProfilerSettings, host_node_id, profiler_service
from orchestratord.profiler.ebpf import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULTS = {"orchestrator": "http://127.0.0.1:5000", "interval": "10", "source": "auto"}
_NAMES = ("orchestrator", "node-id", "interval", "source")


class Options(OneLineOptions):
    """The command line over the environment over the defaults.

    When `parseOptions` returns, `settings` is set and right; otherwise it raises SystemExit with one line that names
    the option, or the environment variable, and the value.
    """

    command = "twistd profiler"
    synopsis = "[options]"
    longdesc = (
        "Measures this node and reports it to an orchestrator, with eBPF (needs root and bpftrace) or from /proc. "
        "Every option may also be given as an environment variable, PROFILER_NODE_ID for --node-id."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        ["orchestrator", None, None, f"base URL of the orchestrator [default: {_DEFAULTS['orchestrator']}]"],
        ["node-id", None, None, "name of this node [default: this host's name]"],
        ["interval", None, None, "seconds that a report covers, 1 to 3600 [default: 10]"],
        ["source", None, None, f"how to measure: {', '.join(SOURCES)} [default: auto]"],
    ]
    settings: ProfilerSettings

    def __init__(self, environ: Mapping[str, str] | None = None, machine: Machine | None = None) -> None:
        super().__init__()
        self._environ = os.environ if environ is None else environ
        self._machine = Machine() if machine is None else machine

    def postOptions(self) -> None:
        """Check every value; an unset or empty environment variable leaves the default."""
        given = {name: self._given(name) for name in _NAMES}
        origin = {name.replace("-", "_"): where for name, (where, _) in given.items()}
        where, text = given["interval"]
        try:
            interval = float(text)
        except ValueError:
            raise usage.UsageError(f"{where} {text!r} is not from 1 to 3600 seconds") from None
        try:
            self.settings = ProfilerSettings(
                orchestrator=given["orchestrator"][1],
                node_id=given["node-id"][1],
                interval=interval,
                source=given["source"][1],
            )
        except ValueError as error:
            field, _, rest = str(error).partition(" ")
            raise usage.UsageError(f"{origin[field]} {rest}") from None
        obstacle = self._machine.obstacle()
        if self.settings.source == "ebpf" and obstacle is not None:
            raise usage.UsageError(f"{given['source'][0]} 'ebpf' does not work here: {obstacle}")

    def _given(self, name: str) -> tuple[str, str]:
        """Return what gave the value of an option, as a user would name it, and the value."""
        flag, variable = f"--{name}", f"PROFILER_{name.replace('-', '_').upper()}"
        if self[name] is not None:
            return flag, self[name]
        if self._environ.get(variable):
            return variable, self._environ[variable]
        return flag, _DEFAULTS.get(name) or host_node_id()


def makeService(options: Options) -> MultiService:
    """Return the profiler, which ends with exit code 0 at SIGTERM or SIGINT."""
    # Only here: a reactor is chosen by twistd's own options, after this module has been imported.
    from twisted.internet import reactor  # noqa: PLC0415

    from orchestratord.signals import StopOnSignals  # noqa: PLC0415
    from orchestratord.timers import run_by_monotonic_clock  # noqa: PLC0415

    run_by_monotonic_clock(reactor)
    service = MultiService()
    profiler_service(reactor, options.settings).setServiceParent(service)
    StopOnSignals(reactor).setServiceParent(service)
    return service

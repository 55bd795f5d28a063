"""`twistd profiler`: its options, and the service made from them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from twisted.application.service import MultiService
from twisted.logger import Logger
from twisted.python import usage

from orchestratord.profiler.agent import SOURCES, ProfilerSettings, host_node_id, profiler_service
from orchestratord.profiler.ebpf import Machine
from orchestratord.runtime.environment import misspelt
from orchestratord.runtime.file_reload import FilesError, ReloadedFile
from orchestratord.runtime.twistd import OneLineOptions
from orchestratord.security.token_file import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

log = Logger()

_PREFIX = "PROFILER_"
_DEFAULTS = {"orchestrator": "http://127.0.0.1:5000", "interval": "10", "source": "auto"}
_NAMES = ("orchestrator", "node-id", "interval", "source", "token-file", "ca", "certificate", "key")


class Options(OneLineOptions):
    """The options: the command line first, then the environment, then the defaults.

    After `parseOptions`, `settings` is set and valid. If a value is wrong, `parseOptions` raises SystemExit with one
    line that names the option or the environment variable, and the value.
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
        ["token-file", None, None, "file whose first line is the bearer token to report with [default: none]"],
        ["ca", None, None, "PEM file of the authorities of an https orchestrator [default: the system's]"],
        ["certificate", None, None, "PEM file of a client certificate, and its chain [default: none]"],
        ["key", None, None, "PEM file of its private key [default: none]"],
    ]
    settings: ProfilerSettings
    #: One line for each environment variable that was probably meant to be an option.
    ignored: list[str]

    def __init__(self, environ: Mapping[str, str] | None = None, machine: Machine | None = None) -> None:
        super().__init__()
        self._environ = os.environ if environ is None else environ
        self._machine = Machine() if machine is None else machine

    def postOptions(self) -> None:
        """Check every value; an unset or empty environment variable leaves the default."""
        given = {name: self._given(name) for name in _NAMES}
        self.ignored = misspelt(_PREFIX, {_variable(name) for name in _NAMES}, self._environ)
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
                token_file=_path(given["token-file"][1]),
                ca=_path(given["ca"][1]),
                certificate=_path(given["certificate"][1]),
                key=_path(given["key"][1]),
            )
            if self.settings.token_file is not None:
                # Checked here, where it is known whether a flag or a variable named the file.
                ReloadedFile(time.monotonic, given["token-file"][0], self.settings.token_file, parse_tokens)
        except FilesError as error:
            raise usage.UsageError(str(error)) from None
        except ValueError as error:
            field, _, rest = str(error).partition(" ")
            raise usage.UsageError(f"{origin[field]} {rest}") from None
        obstacle = self._machine.obstacle()
        if self.settings.source == "ebpf" and obstacle is not None:
            raise usage.UsageError(f"{given['source'][0]} 'ebpf' does not work here: {obstacle}")

    def _given(self, name: str) -> tuple[str, str]:
        """Return the flag or the environment variable that sets an option, and the value."""
        flag, variable = f"--{name}", _variable(name)
        if self[name] is not None:
            return flag, self[name]
        if self._environ.get(variable):
            return variable, self._environ[variable]
        return flag, host_node_id() if name == "node-id" else _DEFAULTS.get(name, "")


def _variable(name: str) -> str:
    return _PREFIX + name.replace("-", "_").upper()


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def makeService(options: Options) -> MultiService:
    """Return the profiler. It exits with 0 at SIGTERM or SIGINT. Raises SystemExit if one of its files is not valid."""
    # Imported here: twistd's own options choose the reactor, after this module has been imported.
    from twisted.internet import reactor  # noqa: PLC0415

    from orchestratord.runtime.clock import run_by_monotonic_clock  # noqa: PLC0415
    from orchestratord.runtime.signals import Signals  # noqa: PLC0415

    run_by_monotonic_clock(reactor)
    for line in options.ignored:
        log.warn("{line}", line=line)
    service = MultiService()
    try:
        profiler_service(reactor, options.settings).setServiceParent(service)
    except FilesError as error:
        raise SystemExit(f"{options.command}: {error}") from None
    Signals(reactor).setServiceParent(service)
    return service

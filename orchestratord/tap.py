"""`twistd orchestrator`: its options, and the service made from them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.logger import Logger

from orchestratord.config.environment import misspelt
from orchestratord.config.options import OPTIONS
from orchestratord.config.settings import SettingsError, load
from orchestratord.runtime.twistd import Options as OneLineOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.application.service import IService

    from orchestratord.config.options import Option
    from orchestratord.config.settings import Settings

log = Logger()


def _help(option: Option) -> str:
    default = option.default
    if option.flag:
        return option.help
    if option.name == "data-dir":
        default = "$XDG_STATE_HOME/orchestratord, else ~/.local/state/orchestratord"
    if isinstance(default, tuple):
        default = " ".join(default)
    repeat = "; may be repeated" if option.repeatable else ""
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{option.help}{repeat} [default: {shown or 'none'}]"


class Options(OneLineOptions):
    """The command line. Every option is also an environment variable and a key of the TOML file."""

    command = "twistd orchestrator"
    synopsis = "[options]"
    longdesc = (
        "Keeps the latest profile of every node in memory, exposes them at /metrics for Prometheus to scrape, and"
        " passes PromQL at /query on to it. Every option is also an environment variable (ORCHESTRATOR_STALE_AFTER)"
        " and a key of the TOML file; flag over environment over file over default."
        " To see it work on this machine alone: twistd -n orchestrator --all-in-one"
    )
    optParameters: ClassVar = [
        [option.name, None, None, _help(option)] for option in OPTIONS if not (option.flag or option.repeatable)
    ] + [["config", None, None, "TOML file with any of these options, and more metric families"]]
    optFlags: ClassVar = [[option.name, None, _help(option)] for option in OPTIONS if option.flag]

    def __init__(self) -> None:
        super().__init__()
        self.repeated: dict[str, list[str]] = {}
        self.settings: Settings | None = None
        #: One line for each environment variable that was probably meant to be an option.
        self.ignored: list[str] = []

    def postOptions(self) -> None:
        """Check everything, before any socket opens; SystemExit names what is wrong."""
        switches = {option.name for option in OPTIONS if option.flag}
        given = {name: value for name, value in self.items() if value not in (None, 0)}
        flags: dict[str, Any] = {name: True if name in switches else value for name, value in given.items()}
        known = {option.variable for option in OPTIONS} | {"ORCHESTRATOR_CONFIG"}
        self.ignored = misspelt("ORCHESTRATOR_", known, os.environ)
        try:
            self.settings = load(flags | self.repeated, os.environ)
        except SettingsError as error:
            raise SystemExit(f"{self.command}: {error}") from None


def _collect(option: Option) -> Callable[[Options, str], None]:
    """Return the method that usage.Options wants for an option that may be repeated; its docstring is the help."""

    def collect(options: Options, value: str) -> None:
        options.repeated.setdefault(option.name, []).append(value)

    collect.__doc__ = _help(option)
    return collect


for _option in OPTIONS:
    if _option.repeatable:
        setattr(Options, f"opt_{_option.attribute}", _collect(_option))


def makeService(options: Options) -> IService:
    """Return the daemon; SystemExit if it cannot be made from these settings."""
    from twisted.internet import reactor  # noqa: PLC0415 - only here: `twistd --reactor` chooses it before

    from orchestratord.promql.embedded_prometheus import EmbeddedError  # noqa: PLC0415 - imports what imports the reactor
    from orchestratord.runtime.clock import run_by_monotonic_clock  # noqa: PLC0415
    from orchestratord.runtime.clocks import MACHINE  # noqa: PLC0415
    from orchestratord.runtime.file_reload import FilesError  # noqa: PLC0415
    from orchestratord.service import Orchestrator  # noqa: PLC0415

    assert options.settings is not None  # noqa: S101 - twistd parses before it makes
    # Deadlines and caches go by the clock by which nodes age: after a suspension, what was in flight is as old as it is
    # to its clients.
    run_by_monotonic_clock(reactor, MACHINE.monotonic)
    for line in options.ignored:
        log.warn("{line}", line=line)
    try:
        return Orchestrator(reactor, options.settings)
    except (EmbeddedError, FilesError) as error:
        raise SystemExit(f"{options.command}: {error}") from None

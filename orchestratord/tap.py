"""`twistd orchestrator`: its options, and the service made from them."""

from __future__ import annotations

import os
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.logger import Logger

from orchestratord.config.loader import load, renamed
from orchestratord.config.options import GROUPS, OPTIONS, RENAMED
from orchestratord.config.settings import SettingsError
from orchestratord.runtime.environment import misspelt
from orchestratord.runtime.twistd import OneLineOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from twisted.application.service import IService

    from orchestratord.config.options import Option
    from orchestratord.config.settings import Settings

log = Logger()


#: The options that are flags. The others are keys of tables in the TOML file.
_FLAGS = tuple(option for group in GROUPS.values() for option in group)
#: Columns of `--help`: where the texts begin, and how wide it is.
_INDENT, _WIDTH = 28, 100


def _help(option: Option) -> str:
    default = option.default
    if option.is_switch:
        return option.help
    if option.name == "data-dir":
        default = "$XDG_STATE_HOME/orchestratord, else ~/.local/state/orchestratord"
    if isinstance(default, tuple):
        default = " ".join(default)
    repeat = "; may be repeated" if option.repeatable else ""
    shown = f"{default:g}" if isinstance(default, float) else str("" if default is None else default)
    return f"{option.help}{repeat} [default: {shown or 'none'}]"


class Options(OneLineOptions):
    """The command line. Every option is also an environment variable and a key of the TOML file."""

    command = "twistd orchestrator"
    synopsis = "[options]"
    longdesc = (
        "Keeps the latest report of every node in memory, exposes the nodes at /metrics, and answers PromQL at /query."
        " To run everything on one machine: twistd -n orchestrator --all-in-one."
        " Each option is also an environment variable"
        " (ORCHESTRATOR_STALE_AFTER) and a key of the TOML file; a flag overrides the environment, the environment"
        " overrides the file. TLS, credentials and more limits are tables of the file; etc/orchestrator.toml shows all."
    )
    optParameters: ClassVar = [
        [option.name, None, None, _help(option)] for option in _FLAGS if not (option.is_switch or option.repeatable)
    ] + [["config", None, None, "TOML file with these options, the tables, and more metric families"]]
    optFlags: ClassVar = [[option.name, None, _help(option)] for option in _FLAGS if option.is_switch]

    def __init__(self) -> None:
        super().__init__()
        self.repeated: dict[str, list[str]] = {}
        self.settings: Settings | None = None
        #: One line for each environment variable that was probably meant to be an option.
        self.ignored: list[str] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; SystemExit with a line that says what is wrong, or the new name of an old option."""
        for given in options or ():
            name = given.removeprefix("--").partition("=")[0]
            if given.startswith("--") and name in RENAMED:
                raise SystemExit(f"{self.command}: {renamed(name, f'--{name}')}")
        super().parseOptions(options)

    def getUsage(self, width: int | None = None) -> str:
        """Return the text of `--help` below its first line, the synopsis: the options under their headings."""
        del width
        return "\n".join(["", *wrap(self.longdesc, _WIDTH), *self._listed(), ""])

    def _listed(self) -> Iterator[str]:
        for heading, options in GROUPS.items():
            yield f"\n{heading}:"
            for option in options:
                yield from _lines(f"--{option.name}{'' if option.is_switch else '='}", _help(option))
        yield "\nOther:"
        yield from _lines("--config=", "TOML file with these options, the tables, and more metric families")
        yield from _lines("--version", "print the version and exit")
        yield from _lines("--help", "print this text and exit")

    def postOptions(self) -> None:
        """Check everything, before any socket opens; SystemExit names what is wrong."""
        switches = {option.name for option in _FLAGS if option.is_switch}
        given = {name: value for name, value in self.items() if value not in (None, 0)}
        flags: dict[str, Any] = {name: True if name in switches else value for name, value in given.items()}
        known = {option.variable for option in OPTIONS} | {"ORCHESTRATOR_CONFIG"}
        self.ignored = misspelt("ORCHESTRATOR_", known, os.environ)
        try:
            self.settings = load(flags | self.repeated, os.environ)
        except SettingsError as error:
            raise SystemExit(f"{self.command}: {error}") from None


def _lines(option: str, text: str) -> list[str]:
    """Return an option and its help in two columns."""
    first, *more = wrap(text, _WIDTH - _INDENT)
    return [f"  {option:<{_INDENT - 3}} {first}", *(" " * _INDENT + line for line in more)]


def _collect(option: Option) -> Callable[[Options, str], None]:
    """Return the method that usage.Options calls for a repeatable option; its docstring is the help."""

    def collect(options: Options, value: str) -> None:
        options.repeated.setdefault(option.name, []).append(value)

    collect.__doc__ = _help(option)
    return collect


for _option in _FLAGS:
    if _option.repeatable:
        setattr(Options, f"opt_{_option.attribute}", _collect(_option))


def makeService(options: Options) -> IService:
    """Return the daemon; SystemExit if it cannot be made from these settings."""
    from twisted.internet import reactor  # noqa: PLC0415 - `twistd --reactor` has chosen it by now

    from orchestratord.promql.embedded_prometheus import EmbeddedError  # noqa: PLC0415 - imports what imports the reactor
    from orchestratord.runtime.clock import MACHINE, run_by_monotonic_clock  # noqa: PLC0415
    from orchestratord.runtime.file_reload import FilesError  # noqa: PLC0415
    from orchestratord.service import Orchestrator  # noqa: PLC0415

    assert options.settings is not None  # noqa: S101 - twistd parses before it makes
    # Deadlines and caches use the clock by which nodes age. After a suspension, a request in flight is then as old as
    # its client sees it.
    run_by_monotonic_clock(reactor, MACHINE.monotonic)
    for line in options.ignored:
        log.warn("{line}", line=line)
    try:
        return Orchestrator(reactor, options.settings)
    except (EmbeddedError, FilesError) as error:
        raise SystemExit(f"{options.command}: {error}") from None

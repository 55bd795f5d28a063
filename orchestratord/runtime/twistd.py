"""What twistd leaves to its plugins: one-line errors with exit code 1, a log without noise, and no stray pidfile."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory
from twisted.python import usage

from orchestratord import __version__

# Twisted logs two lines for every connection to an upstream or an orchestrator; they say nothing to an operator.
Factory.noisy = False

if TYPE_CHECKING:
    from collections.abc import Sequence


class Options(usage.Options):
    """Options whose errors are one line; twistd would print the whole usage, and the line somewhere below it.

    `command` names the program in that line.
    """

    command = "twistd"
    #: twistd's own options, which twistd sets before it parses these; None where there is no twistd.
    parent: Any = None

    def opt_version(self) -> None:
        """Display the version of orchestratord and exit."""
        print(f"orchestratord {__version__}")  # noqa: T201 - what was asked for
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; raise SystemExit with the line that says what is wrong."""
        try:
            if self.parent is not None:
                _settle_pidfile(self.parent)
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"{self.command}: {error}{self._meant(str(error))}") from None

    def _meant(self, said: str) -> str:
        unknown = re.fullmatch(r"option --(.{1,100}) not recognized", said)
        names = [name.removesuffix("=") for name in self.longOpt]
        close = difflib.get_close_matches(unknown[1], names, n=1) if unknown else ()
        return f"; did you mean --{close[0]}?" if close else ""

    def parseArgs(self, *words: str) -> None:
        """Refuse every word that is not an option, and name the first."""
        if words:
            raise usage.UsageError(f"{words[0][:100]!r} is not an option: options begin with --")


def _settle_pidfile(parent: Any) -> None:
    """Write no pidfile in the foreground unless one was asked for; raise UsageError if one cannot be written.

    twistd writes `twistd.pid` into the current folder, with -n too: two daemons in one folder would refuse each other,
    and in a folder that cannot be written the second would end in a traceback.
    """
    # The default is told from the same name on the command line by being the same object.
    if parent["nodaemon"] and parent["pidfile"] is parent.defaults["pidfile"]:
        parent["pidfile"] = ""
    if not parent["pidfile"]:
        return
    path = Path(parent["rundir"] or ".") / parent["pidfile"]
    if not path.parent.is_dir():
        reason = "there is no such folder"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = "no permission to write there"
    else:
        return
    raise usage.UsageError(f"--pidfile: {str(path)!r} cannot be written: {reason}; --pidfile= writes none")

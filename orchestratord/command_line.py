"""What twistd leaves to its plugins: a wrong command line ends in one line and exit code 1, and a log without noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    def opt_version(self) -> None:
        """Display the version of orchestratord and exit."""
        print(f"orchestratord {__version__}")  # noqa: T201 - what was asked for
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line; raise SystemExit with the line that says what is wrong."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"{self.command}: {error}") from None

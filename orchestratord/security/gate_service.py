"""The gate with its token files: follows them while they change, and keeps their tokens out of the log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twisted.application.service import MultiService
from twisted.logger import Logger

from orchestratord.runtime.file_reload import FileReloader
from orchestratord.security.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orchestratord.runtime.file_reload import ReloadedFile
    from orchestratord.security.gate import Role
    from orchestratord.security.jwt import NodeTokenVerifier

log = Logger()

_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*")
#: What clients call a token that they put into a URL.
_IN_A_URL = re.compile(rb"(?i)([?&;][^=&;]*(?:token|auth|secret|bearer|passw)[^=&;]*=)[^&;]*")


class GateService(MultiService):
    """Keeps the gate's tokens equal to those in the files of each role while it runs.

    `verifier` checks the tokens that speak for one node, if such tokens are taken; who made it keeps its keys current,
    with a service below this one. Belongs to the reactor thread.
    """

    def __init__(
        self,
        reactor: Any,
        files: Mapping[Role, Sequence[ReloadedFile[tuple[bytes, ...]]]],
        verifier: NodeTokenVerifier | None = None,
    ) -> None:
        super().__init__()
        self._files = files
        self._changed: dict[Role, Callable[[], None]] = {}
        self.gate = Gate({role: self.tokens(role) for role in files}, verifier)
        followed: list[tuple[ReloadedFile[tuple[bytes, ...]], Callable[[], None]]] = [
            (file, lambda role=role: self._use(role))  # type: ignore[misc]  # a default that binds
            for role, of_role in files.items()
            for file in of_role
        ]
        FileReloader(reactor, followed).setServiceParent(self)

    def tokens(self, role: Role) -> list[bytes]:
        """Return the tokens that the files of a role hold now, in the order of the options."""
        return [token for file in self._files.get(role, ()) for token in file.value()]

    def path(self, role: Role) -> Path | None:
        """Return the first file of a role, if it has one."""
        files = self._files.get(role)
        return files[0].path if files else None

    def follow(self, role: Role, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever the tokens of a role have changed."""
        self._changed[role] = changed

    def redacted(self, data: bytes) -> bytes:
        """Return a text for the log without the tokens that a client may have put where none belongs."""
        for role in self._files:
            for token in self.tokens(role):
                data = data.replace(token, b"[token]").replace(quote(token, safe="").encode(), b"[token]")
        return _IN_A_URL.sub(rb"\1[token]", _JWT.sub(b"[token]", data))

    def startService(self) -> None:
        """Log which roles need no token, and follow the files."""
        super().startService()
        open_roles = ", ".join(self.gate.open_roles)
        log.info("roles open to everybody, without a token: {roles}", roles=open_roles or "none")

    def _use(self, role: Role) -> None:
        self.gate.use(role, self.tokens(role))
        if role in self._changed:
            self._changed[role]()

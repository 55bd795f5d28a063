"""From Settings to the gate: reads the token files and the issuer's keys, and keeps up with them while they change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twisted.application.service import MultiService
from twisted.logger import Logger

from orchestratord.http_client.agent import http_agent
from orchestratord.runtime.file_reload import FileReloader, ReloadedFile
from orchestratord.security.gate import Gate, Role
from orchestratord.security.jwks import FETCH_SECONDS, KeySource
from orchestratord.security.jwt import NodeTokenVerifier, parse_keys
from orchestratord.security.tls import ClientOptions, ClientTls
from orchestratord.security.token_file import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestratord.config.settings import Settings

log = Logger()

_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*")
#: What clients call a token that they put into a URL.
_IN_A_URL = re.compile(rb"(?i)([?&;][^=&;]*(?:token|auth|secret|bearer|passw)[^=&;]*=)[^&;]*")


class GateService(MultiService):
    """Holds the gate open and shut. Made, it has read every file once, or raised FilesError; running, it keeps up.

    `time` is the Unix time. Belongs to the reactor thread.
    """

    def __init__(self, reactor: Any, settings: Settings, time: Callable[[], float]) -> None:
        super().__init__()
        self._files: dict[Role, list[ReloadedFile[tuple[bytes, ...]]]] = {}
        watched: list[tuple[ReloadedFile[Any], Callable[[], None]]] = []
        self._changed: dict[Role, Callable[[], None]] = {}
        for role, path in settings.token_file:
            file = ReloadedFile(reactor.seconds, f"--token-file {role}", path, parse_tokens)
            self._files.setdefault(role, []).append(file)
            watched.append((file, lambda role=role: self._use(role)))  # type: ignore[misc]  # a default that binds
        bound = None
        if settings.report_oidc_jwks is not None:
            bound = self._node_tokens(reactor, settings, time, watched)
        self.gate = Gate({role: self.tokens(role) for role in self._files}, bound)
        FileReloader(reactor, watched).setServiceParent(self)

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
        """Say who is let in without a token, and keep up with the files."""
        super().startService()
        open_roles = ", ".join(self.gate.open_roles)
        log.info("roles open to everybody, without a token: {roles}", roles=open_roles or "none")

    def _use(self, role: Role) -> None:
        self.gate.use(role, self.tokens(role))
        if role in self._changed:
            self._changed[role]()

    def _node_tokens(
        self,
        reactor: Any,
        settings: Settings,
        time: Callable[[], float],
        watched: list[tuple[ReloadedFile[Any], Callable[[], None]]],
    ) -> NodeTokenVerifier:
        jwks = settings.report_oidc_jwks or ""
        verified = NodeTokenVerifier(
            settings.report_oidc_issuer or "",
            settings.report_oidc_audience or "",
            time=time,
            max_remembered=2 * settings.max_nodes,
        )
        if "://" not in jwks:
            keys = ReloadedFile(reactor.seconds, "oidc.jwks", Path(jwks), parse_keys)
            verified.use(keys.value())
            watched.append((keys, lambda: verified.use(keys.value())))
            return verified
        token = None
        if settings.report_oidc_token_file is not None:
            path = settings.report_oidc_token_file
            token = ReloadedFile(reactor.seconds, "oidc.credentials_file", path, parse_tokens)
        trust = None
        if jwks.startswith("https:"):
            options = ClientOptions("oidc.ca_file", "", "")
            trust = ClientTls(reactor.seconds, options, ca=settings.report_oidc_ca)
        source = KeySource(
            reactor,
            jwks,
            use=verified.use,
            agent=http_agent(reactor, trust, connect_seconds=FETCH_SECONDS),
            token=None if token is None else lambda: token.value()[0],
        )
        source.setServiceParent(self)
        verified.wanted = source.wanted
        return verified

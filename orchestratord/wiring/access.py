"""From Settings to the gate: the token files, and the keys that verify reports' tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestratord.http_client.agent import http_agent
from orchestratord.runtime.file_reload import FileReloader, ReloadedFile
from orchestratord.security.gate_service import GateService
from orchestratord.security.jwks import FETCH_SECONDS, KeySource
from orchestratord.security.jwt import NodeTokenVerifier, parse_keys
from orchestratord.security.tls import ClientOptions, ClientTls
from orchestratord.security.token_file import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.application.service import Service

    from orchestratord.config.settings import Settings
    from orchestratord.security.gate import Gate, Role


class Access(NamedTuple):
    """Who is let in. `redacted` returns a text for the log without the tokens in it."""

    gate: Gate
    redacted: Callable[[bytes], bytes] = bytes


def make_gate_service(reactor: Any, settings: Settings, time: Callable[[], float]) -> GateService:
    """Return the gate, with every file read once. `time` is the Unix time.

    Raises FilesError, which names the option and the path, if a file cannot be used.
    """
    files: dict[Role, list[ReloadedFile[tuple[bytes, ...]]]] = {}
    for role, path in settings.token_file:
        file = ReloadedFile(reactor.seconds, f"--token-file {role}", path, parse_tokens)
        files.setdefault(role, []).append(file)
    if settings.report_oidc_jwks is None:
        return GateService(reactor, files)
    verifier = NodeTokenVerifier(
        settings.report_oidc_issuer or "",
        settings.report_oidc_audience or "",
        time=time,
        max_remembered=2 * settings.max_nodes,
    )
    keys = _keys(reactor, settings, settings.report_oidc_jwks, verifier)
    gate_service = GateService(reactor, files, verifier)
    keys.setServiceParent(gate_service)
    return gate_service


def _keys(reactor: Any, settings: Settings, jwks: str, verifier: NodeTokenVerifier) -> Service:
    """Return the service that gives the verifier the keys at `jwks`, a path or a URL, and keeps them current."""
    if "://" not in jwks:
        keys = ReloadedFile(reactor.seconds, "oidc.jwks", Path(jwks), parse_keys)
        verifier.use(keys.value())
        return FileReloader(reactor, [(keys, lambda: verifier.use(keys.value()))])
    token = None
    if settings.report_oidc_token_file is not None:
        path = settings.report_oidc_token_file
        token = ReloadedFile(reactor.seconds, "oidc.credentials_file", path, parse_tokens)
    trust = None
    if jwks.startswith("https:"):
        trust = ClientTls(reactor.seconds, ClientOptions("oidc.ca_file", "", ""), ca=settings.report_oidc_ca)
    source = KeySource(
        reactor,
        jwks,
        use=verifier.use,
        agent=http_agent(reactor, trust, connect_seconds=FETCH_SECONDS),
        token=None if token is None else lambda: token.value()[0],
    )
    verifier.wanted = source.wanted
    return source

"""Who may do what: the roles, and the gate that compares bearer tokens. Pure; reads no file."""

from __future__ import annotations

import re
from base64 import b64decode
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Protocol

from orchestratord.errors import Fault, Forbidden, Unauthorized
from orchestratord.security.token_file import MAX_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Role(StrEnum):
    """What a token allows its holder to do."""

    REPORT = "report"
    QUERY = "query"
    SCRAPE = "scrape"
    ADMIN = "admin"


_BASIC = re.compile(rb"basic +(\S{1,12000})", re.IGNORECASE)
_BEARER = re.compile(rb"bearer +(\S+)", re.IGNORECASE)


class NodeTokens(Protocol):
    """Verifies tokens that are bound to one node: `orchestratord.security.jwt.NodeTokenVerifier`."""

    def remembered(self, digest: bytes) -> str | None:
        """Return the node of a token that was verified before and is still valid; `digest` is its SHA-256."""
        ...

    def node(self, token: bytes, digest: bytes) -> str:
        """Return the node; raise Unauthorized, Forbidden or KeysPending."""
        ...


class Gate:
    """Admits a request or refuses it. A role that is not in `tokens` is open to everybody.

    The gate keeps digests, not tokens: they have one length, and the time of a comparison reveals nothing of a token.
    `bound` verifies report tokens that are not in a file; with it the role `report` requires a token. Belongs to the
    reactor thread.
    """

    def __init__(self, tokens: Mapping[Role, Iterable[bytes]], bound: NodeTokens | None = None) -> None:
        self._bound = bound
        self._digests: dict[Role, tuple[bytes, ...]] = {}
        if bound is not None:
            self.use(Role.REPORT, ())
        for role, known in tokens.items():
            self.use(role, known)

    @property
    def open_roles(self) -> list[Role]:
        """The roles that require no token."""
        return [role for role in Role if role not in self._digests]

    def is_open(self, role: Role | None) -> bool:
        """Return whether the role requires no token."""
        return role not in self._digests

    def use(self, role: Role, tokens: Iterable[bytes]) -> None:
        """Replace the tokens of a role."""
        self._digests[role] = tuple({sha256(token).digest() for token in tokens})

    def admit(self, role: Role | None, authorization: bytes | None, *, basic: bool = False) -> str | None:
        """Return the one node that a client of the role REPORT may report, or None: any node, or another role.

        `authorization` is the value of the Authorization header, None without one. Several values come joined, and are
        then not a valid token. `basic`: the token may come as the password of any user name, since browsers
        cannot send a Bearer token.

        Raises Unauthorized, Forbidden or KeysPending.
        """
        if role is None:
            return None
        digests = self._digests.get(role)
        if digests is None:
            return None
        if authorization is None:
            raise Unauthorized(f"this requires a token of the role {role}", wrong=False)
        token = authorization[7:] if authorization[:7] == b"Bearer " else _odd_bearer(authorization)
        if not token and basic:
            token = _password(authorization)
        if not token or len(token) > MAX_TOKEN:
            raise Unauthorized(f"Authorization must be 'Bearer' and a token of the role {role}", wrong=True)
        digest = sha256(token).digest()
        if _holds(digests, digest):
            return None
        if self._bound is None:
            raise self._refusal(role, digest)
        if role is Role.REPORT:
            return self._bound.remembered(digest) or self._verified(role, self._bound, token, digest)
        raise self._refusal(role, digest, is_bound=_verifies(self._bound, token, digest))

    def _verified(self, role: Role, bound: NodeTokens, token: bytes, digest: bytes) -> str:
        """Return the node of a report's token that is not in a file of the role."""
        if self._other_role(role, digest) is not None:
            raise self._refusal(role, digest)
        return bound.node(token, digest)

    def _other_role(self, asked: Role, digest: bytes) -> Role | None:
        for role, others in self._digests.items():
            if role is not asked and _holds(others, digest):
                return role
        return None

    def _refusal(self, role: Role, digest: bytes, *, is_bound: bool = False) -> Fault:
        other = Role.REPORT if is_bound else self._other_role(role, digest)
        if other is None:
            return Unauthorized(f"this is not a token of the role {role}", wrong=True)
        return Forbidden(f"this requires a token of the role {role}, not of the role {other}")


def _verifies(bound: NodeTokens, token: bytes, digest: bytes) -> bool:
    """Return whether a token is bound to a node."""
    try:
        bound.node(token, digest)
    except Fault:
        return False
    return True


def _odd_bearer(authorization: bytes) -> bytes:
    """Return the token after an unusual spelling of `Bearer`; empty for another scheme."""
    bearer = _BEARER.fullmatch(authorization.strip())
    return bearer[1] if bearer else b""


def _password(authorization: bytes) -> bytes:
    """Return the password of Basic; empty for another scheme, or if it cannot be decoded."""
    basic = _BASIC.fullmatch(authorization.strip())
    try:
        return b64decode(basic[1], validate=True).partition(b":")[2] if basic else b""
    except ValueError:
        return b""


def _holds(digests: tuple[bytes, ...], digest: bytes) -> bool:
    found = False
    for known in digests:
        found |= compare_digest(known, digest)
    return found

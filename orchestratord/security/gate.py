"""Who may do what: routes, the role that each takes, and the bearer tokens that have it. Pure; reads no file."""

from __future__ import annotations

import re
from base64 import b64decode
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from orchestratord.errors import Fault, Forbidden, QueryForbidden, QueryUnauthorized, Unauthorized
from orchestratord.security.token_file import MAX_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Role(StrEnum):
    """What somebody may do who has a token."""

    REPORT = "report"
    QUERY = "query"
    SCRAPE = "scrape"
    ADMIN = "admin"


class Rule(NamedTuple):
    """A route as it is counted, and the role that it takes; None: it is open to everybody."""

    route: str
    role: Role | None

    @property
    def is_promql(self) -> bool:
        """Whether errors here have Prometheus' envelope."""
        return self.route.startswith(("/query", "/api/", "/graph.svg"))


#: What is at `/`: a list of the routes for programs, which is no secret, and the status page, which is.
INDEX, FRONT_PAGE = Rule("/", None), Rule("/", Role.QUERY)

#: Every route whose path has no parameter. This and `rule` are the one place that says who may do what.
_EXACT = {
    path.encode(): Rule(path, role)
    for path, role in {
        "/openapi.yaml": None,
        "/-/healthy": None,
        "/-/ready": None,
        "/update_metrics": Role.REPORT,
        "/metrics": Role.SCRAPE,
        "/nodes": Role.QUERY,
        "/fleet": Role.QUERY,
        "/graph": Role.QUERY,
        "/graph.svg": Role.QUERY,
        "/query": Role.QUERY,
        "/api/v1/query": Role.QUERY,
        "/api/v1/query_range": Role.QUERY,
        "/api/v1/series": Role.QUERY,
        "/api/v1/labels": Role.QUERY,
        "/api/v1/metadata": Role.QUERY,
        "/api/v1/format_query": Role.QUERY,
        "/api/v1/query_exemplars": Role.QUERY,
        "/api/v1/status/buildinfo": Role.QUERY,
        "/api/v1/rules": Role.QUERY,
        "/api/v1/alerts": Role.QUERY,
    }.items()
} | {b"/": INDEX}
_STATIC = Rule("/static/<name>", None)
_NODE = Rule("/nodes/<id>", Role.QUERY)
_FORGET = Rule("/nodes/<id>", Role.ADMIN)
#: A step that is empty, or begins with a dot, and a slash at the end.
_UNCLEAN = re.compile(rb"/(?:/|\.|%2[eE]|\Z)")
_LABEL_VALUES = Rule("/api/v1/label/<name>/values", Role.QUERY)


def cleaned(target: bytes) -> bytes:
    """Return a request's target with a clean path: without empty steps, `.` and `..`, and without a slash at its end.

    Prometheus redirects to the clean path; here it is served as if it had been asked for, since a client that follows a
    redirect loses the form that it has posted. An encoded slash is a character of a name, and stays.
    """
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/") or _UNCLEAN.search(path) is None:
        return target
    steps: list[bytes] = []
    for step in path.split(b"/"):
        plain = step.replace(b"%2e", b".").replace(b"%2E", b".")
        if plain == b"..":
            del steps[-1:]
        elif plain not in {b"", b"."}:
            steps.append(step)
    return b"/" + b"/".join(steps) + mark + query


def rule(method: bytes, target: bytes) -> Rule | None:
    """Return the rule of a request by its cleaned target, query string and all; None: there is no such route.

    What is no route here is answered 404 by the tree, whether it has such a route or not: none is open by oversight.
    """
    path = target.partition(b"?")[0]
    found = _EXACT.get(path)
    if found is not None:
        return found
    # As the tree reads it: `/%6eodes` is `/nodes`, and must not be something else here.
    path = unquote_to_bytes(path).rstrip(b"/") or b"/"
    found = _EXACT.get(path)
    if found is not None:
        return found
    if path.startswith(b"/nodes/"):
        # As the tree reads it: in any case.
        return _FORGET if method.upper() == b"DELETE" else _NODE
    if path.startswith(b"/static/"):
        return _STATIC
    if path.startswith(b"/api/v1/label/"):
        return _LABEL_VALUES
    return None


_BASIC = re.compile(rb"basic +(\S{1,12000})", re.IGNORECASE)
_BEARER = re.compile(rb"bearer +(\S+)", re.IGNORECASE)


class Bound(Protocol):
    """Verifies tokens that speak for one node: `orchestratord.security.jwt.NodeTokenVerifier`."""

    def remembered(self, digest: bytes) -> str | None:
        """Return the node of a token that was verified before and still holds; `digest` is its SHA-256."""
        ...

    def node(self, token: bytes, digest: bytes) -> str:
        """Return the node; raise Unauthorized, Forbidden or KeysPending."""
        ...


class Gate:
    """Lets a request in or refuses it. A role that is not in `tokens` is open to everybody.

    Holds digests, not tokens: what is compared has one length, and comparing tells nothing of a token by its time.
    `bound` verifies report tokens that are in no file; with it the role `report` is closed. Belongs to the reactor
    thread.
    """

    def __init__(self, tokens: Mapping[Role, Iterable[bytes]], bound: Bound | None = None) -> None:
        self._bound = bound
        self._digests: dict[Role, tuple[bytes, ...]] = {}
        if bound is not None:
            self.use(Role.REPORT, ())
        for role, known in tokens.items():
            self.use(role, known)

    @property
    def open_roles(self) -> list[Role]:
        """The roles that everybody has."""
        return [role for role in Role if role not in self._digests]

    def is_open(self, role: Role | None) -> bool:
        """Return whether everybody has the role."""
        return role not in self._digests

    def use(self, role: Role, tokens: Iterable[bytes]) -> None:
        """Take these tokens for a role in the place of those it had."""
        self._digests[role] = tuple({sha256(token).digest() for token in tokens})

    def admit(self, rule: Rule, authorization: bytes | None, *, basic: bool = False) -> str | None:
        """Return the one node for which the client may report, or None: for any, or it is no report.

        `authorization` is the value of the request's Authorization header; None without one, and where there are
        several, their values joined, which are no token. `basic`: the token may come as a password, whoever's, as
        browsers send it, which can send no other.

        Raises Unauthorized, Forbidden or KeysPending, in Prometheus' envelope where the route has it.
        """
        digests = self._digests.get(rule.role) if rule.role is not None else None
        if digests is None:
            return None
        if authorization is None:
            raise _unauthorized(rule, f"this takes a token of the role {rule.role}", wrong=False)
        token = authorization[7:] if authorization[:7] == b"Bearer " else _odd_bearer(authorization)
        if not token and basic:
            token = _password(authorization)
        if not token or len(token) > MAX_TOKEN:
            raise _unauthorized(rule, f"Authorization must be 'Bearer' and a token of the role {rule.role}", wrong=True)
        digest = sha256(token).digest()
        if _holds(digests, digest):
            return None
        if self._bound is None:
            raise self._refusal(rule, digest)
        if rule.role is Role.REPORT:
            return self._bound.remembered(digest) or self._verified(rule, self._bound, token, digest)
        raise self._refusal(rule, digest, is_bound=_verifies(self._bound, token, digest))

    def _verified(self, rule: Rule, bound: Bound, token: bytes, digest: bytes) -> str:
        """Return the node of a report's token that is in no file of the role."""
        if self._other_role(rule, digest) is not None:
            raise self._refusal(rule, digest)
        return bound.node(token, digest)

    def _other_role(self, rule: Rule, digest: bytes) -> Role | None:
        for role, others in self._digests.items():
            if role is not rule.role and _holds(others, digest):
                return role
        return None

    def _refusal(self, rule: Rule, digest: bytes, *, is_bound: bool = False) -> Fault:
        other = Role.REPORT if is_bound else self._other_role(rule, digest)
        if other is None:
            return _unauthorized(rule, f"this is no token of the role {rule.role}", wrong=True)
        text = f"this takes a token of the role {rule.role}, not of the role {other}"
        return (QueryForbidden if rule.is_promql else Forbidden)(text)


def _verifies(bound: Bound, token: bytes, digest: bytes) -> bool:
    """Return whether a token speaks for a node."""
    try:
        bound.node(token, digest)
    except Fault:
        return False
    return True


def _odd_bearer(authorization: bytes) -> bytes:
    """Return the token where the scheme is not spelt as everybody spells it; empty if it is another scheme."""
    bearer = _BEARER.fullmatch(authorization.strip())
    return bearer[1] if bearer else b""


def _password(authorization: bytes) -> bytes:
    """Return the password where the scheme is Basic; empty if it is another, or cannot be read."""
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


def _unauthorized(rule: Rule, text: str, *, wrong: bool) -> Unauthorized:
    return (QueryUnauthorized if rule.is_promql else Unauthorized)(text, wrong=wrong)

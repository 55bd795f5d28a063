"""Tokens that speak for one node: JWTs of a Kubernetes service account, bound to a pod and so to its node. Pure."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import msgspec

from orchestratord.errors import Forbidden, KeysPending, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Signatures that are taken: asymmetric ones alone. With HS256 the public key would be the secret.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Seconds by which the issuer's clock may be off.
LEEWAY = 10
#: Keys of one issuer; Kubernetes has one, and two while they are rotated.
MAX_KEYS = 100
#: Where a bound token has its node's name (Kubernetes 1.30 and newer).
NODE_CLAIM = ("kubernetes.io", "node", "name")

#: RFC 7515's compact form, in bytes that cannot be mistaken for white space or a header's end.
_COMPACT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_SIGNATURES = jwt.PyJWS(algorithms=ALGORITHMS)


@dataclass(frozen=True)
class SigningKey:
    """A public key; two are the same if their JWKs are. `algorithm` is the one that it signs with."""

    source: tuple[tuple[str, str], ...]
    algorithm: str
    key: jwt.PyJWK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKey) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)


def parse_keys(data: bytes) -> dict[str, SigningKey]:
    """Return the keys of a JSON Web Key Set by their ids; those that sign nothing that is taken are passed over.

    Raises ValueError if there is none.
    """
    try:
        listed = msgspec.json.decode(data)["keys"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        raise ValueError("is no JSON Web Key Set") from None
    keys: dict[str, SigningKey] = {}
    for item in listed[:MAX_KEYS] if isinstance(listed, list) else []:
        # From a private key, which has no business here, PyJWT works out its primes: for minutes if it is made to.
        if not isinstance(item, dict) or item.get("use", "sig") != "sig" or "d" in item:
            continue
        try:
            key = jwt.PyJWK(item)
        except Exception:  # noqa: BLE001, S112 - PyJWT and cryptography raise KeyError, and more, at a field that is missing
            continue  # of a kind that is not known here
        name = key.algorithm_name
        if name in ALGORITHMS:
            source = tuple(sorted((str(field), repr(value)) for field, value in item.items()))
            keys.setdefault(str(item.get("kid", "")), SigningKey(source, name, key))
    if not keys:
        raise ValueError("holds no key for a signature that is taken")
    return keys


class NodeTokenVerifier:
    """Verifies tokens against an issuer's keys, and remembers those that it has verified.

    `time` is the Unix time; `max_remembered` bounds the memory. Belongs to the reactor thread.
    """

    def __init__(self, issuer: str, audience: str, *, time: Callable[[], float], max_remembered: int) -> None:
        self._issuer = issuer
        self._audience = audience
        #: Called when a token names a key that is not there: has keys fetched, returns whether one may yet turn up.
        self.wanted: Callable[[], bool] = _never
        self._time = time
        self._max_remembered = max_remembered
        self._keys: Mapping[str, SigningKey] = {}
        #: Node, and the end of the token's life, by digest: a signature costs 50 us, looking it up here 1 us.
        self._verified: dict[bytes, tuple[str, float]] = {}

    def use(self, keys: Mapping[str, SigningKey]) -> None:
        """Take these keys in the place of those before; what one that is gone has signed is not remembered."""
        if any(keys.get(name) != key for name, key in self._keys.items()):
            self._verified.clear()
        self._keys = keys

    def remembered(self, digest: bytes) -> str | None:
        """Return the node of a token that was verified before and still holds; `digest` is its SHA-256."""
        found = self._verified.get(digest)
        return found[0] if found is not None and self._time() < found[1] else None

    def node(self, token: bytes, digest: bytes) -> str:
        """Return the node that a token speaks for, and remember it.

        Raises Unauthorized if it does not verify, Forbidden, which names the claim, if it is not for here or for no
        node, KeysPending if its key may yet be fetched.
        """
        now = self._time()
        if _COMPACT.fullmatch(token) is None:  # PyJWT passes over what is not base64
            raise _refused("it is no JWT, and none of the tokens of the role report")
        claims = self._signed(token)
        until = _lifetime(claims, now)
        node = self._bound_to(claims)
        self._verified.pop(digest, None)
        if len(self._verified) >= self._max_remembered:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = (node, until)
        return node

    def _signed(self, token: bytes) -> dict[str, Any]:
        """Return the claims of a token whose signature is right."""
        header = _header(token)
        if header.get("alg") not in ALGORITHMS:
            raise _refused("its signature is of no kind that is taken")
        key = self._key(header.get("kid"))
        try:
            payload = _SIGNATURES.decode(token, key.key, algorithms=[key.algorithm])
            claims = msgspec.json.decode(payload)
        except Exception:  # noqa: BLE001 - nobody lists what the libraries raise at a token, or at a key, of others' making
            raise _refused("its signature is wrong") from None
        if not isinstance(claims, dict):
            raise _refused("it has no claims")
        return claims

    def _key(self, name: Any) -> SigningKey:
        key = self._keys.get(name) if isinstance(name, str) else None
        if name is None and len(self._keys) == 1:
            (key,) = self._keys.values()
        if key is not None:
            return key
        if self.wanted():
            raise KeysPending("the issuer's keys are being fetched; try again")
        raise _refused("no key of the issuer has signed it")

    def _bound_to(self, claims: dict[str, Any]) -> str:
        if claims.get("iss") != self._issuer:
            raise Forbidden("the token's claim iss is not the issuer that is trusted here")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Forbidden(f"the token's claim aud does not have {self._audience!a}")
        node: Any = claims
        for name in NODE_CLAIM:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, str) or not node:
            raise Forbidden(f"the token has no claim {'/'.join(NODE_CLAIM)}: it is not bound to a node")
        return node


def _header(token: bytes) -> dict[str, Any]:
    """Return what chooses the key; PyJWT reads it again, and checks all of it, which takes 60 us each time."""
    try:
        part = token.partition(b".")[0]
        header = msgspec.json.decode(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (msgspec.DecodeError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _refused("it is no JWT, and none of the tokens of the role report")
    return header


def _never() -> bool:
    """Tell that no key will turn up."""
    return False


def _lifetime(claims: dict[str, Any], now: float) -> float:
    """Return when a token ends, leeway included; raise Unauthorized if it has ended, or has not begun."""
    expires: Any = claims.get("exp")
    begins: Any = claims.get("nbf", 0)
    if not _is_time(expires) or not _is_time(begins):
        raise _refused("its claim exp is missing, or exp or nbf is no time")
    if now >= expires + LEEWAY:
        raise _refused("its claim exp is past: it has expired")
    if now < begins - LEEWAY:
        raise _refused("its claim nbf is ahead: it is not valid yet")
    return float(expires + LEEWAY)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2**53) < value < 2**53


def _refused(reason: str) -> Unauthorized:
    return Unauthorized(f"the token does not verify: {reason}", wrong=True)

"""Keys and tokens for tests: an issuer that signs what it is told."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "orchestratord"


@cache
def rsa_key(number: int = 1) -> rsa.RSAPrivateKey:
    """Return a key; making one takes a while."""
    del number
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """Return another kind of key."""
    return ec.generate_private_key(ec.SECP256R1())


def jwk(kid: str, key: Any = None, **more: Any) -> dict[str, Any]:
    """Return the public half of a key as the issuer publishes it."""
    key = rsa_key() if key is None else key
    algorithm: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    fields = json.loads(algorithm.to_jwk(key.public_key()))
    name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return {**fields, "kid": kid, "use": "sig", "alg": name, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    """Return a JSON Web Key Set."""
    return json.dumps({"keys": keys}).encode()


def claims(node: str | None = "n1", *, now: float, **changed: Any) -> dict[str, Any]:
    """Return what a bound service-account token says; a claim that is None is left out."""
    bound: dict[str, Any] = {"namespace": "default", "pod": {"name": "profiler-x7k2p", "uid": "a" * 36}}
    if node is not None:
        bound["node"] = {"name": node, "uid": "b" * 36}
    said = {
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "sub": "system:serviceaccount:default:orchestrator-profiler",
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now) + 3600,
        "kubernetes.io": bound,
        **changed,
    }
    return {name: value for name, value in said.items() if value is not None}


def signed(said: dict[str, Any], key: Any = None, *, kid: str | None = "k1", algorithm: str = "RS256") -> str:
    """Return a token."""
    return jwt.encode(said, rsa_key() if key is None else key, algorithm, headers={"kid": kid} if kid else None)

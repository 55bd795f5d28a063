"""Any bytes as a token, as its claims, or as a key set: a node comes out, or a refusal, and nothing else.

The first byte says what the rest is: a token, a payload that is signed here, or a key set, whose keys then verify a
token.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from hashlib import sha256

import jwt

from orchestratord.errors import Fault
from orchestratord.security.jwt import MAX_KEYS, NodeTokenVerifier, parse_keys
from tests.fakes import NOW
from tests.tokens import AUDIENCE, ISSUER, claims, ec_key, jwk, key_set

_REMEMBERED = 3
_OURS = parse_keys(key_set(jwk("k1", ec_key())))


def check(data: bytes) -> None:
    """Fail unless the token is verified or refused, and nothing of it is remembered that does not verify."""
    way, rest = data[:1], data[1:]
    tokens = NodeTokenVerifier(ISSUER, AUDIENCE, time=lambda: NOW, max_remembered=_REMEMBERED)
    tokens.use(_OURS)
    token = rest
    if way == b"k":
        try:
            keys = parse_keys(rest)
        except ValueError as error:
            assert str(error).isprintable()
            return
        assert 0 < len(keys) <= MAX_KEYS
        for name in keys:
            tokens.use({name: keys[name]})
            for length in (64, 256):
                _is_answered(tokens, _unsigned(name, keys[name].algorithm, bytes(range(length))))
        return
    if way == b"p":
        token = jwt.PyJWS().encode(rest, ec_key(), algorithm="ES256", headers={"kid": "k1"}).encode()
    _is_answered(tokens, token)


def _unsigned(key: str, algorithm: str, signature: bytes) -> bytes:
    header = json.dumps({"alg": algorithm, "kid": key}).encode()
    parts = (header, json.dumps(claims(now=NOW)).encode(), signature)
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def _is_answered(tokens: NodeTokenVerifier, token: bytes) -> None:
    digest = sha256(token).digest()
    try:
        node = tokens.node(token, digest)
    except Fault as fault:
        assert fault.status in {401, 403, 503}
        assert str(fault).isprintable()
        assert len(str(fault)) < 500
        assert tokens.remembered(digest) is None
    else:
        assert node
        assert tokens.remembered(digest) == node

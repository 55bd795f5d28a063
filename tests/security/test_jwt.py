"""Tokens that speak for one node: what verifies, what does not, and which claim fails."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from orchestratord.errors import Forbidden, KeysPending, Unauthorized
from orchestratord.security.jwt import LEEWAY, NodeTokenVerifier, parse_keys
from tests.fakes import NOW
from tests.tokens import AUDIENCE, ISSUER, claims, ec_key, jwk, key_set, rsa_key, signed


class Verifying:
    """NodeTokens at a time that the test sets."""

    def __init__(self, *keys: dict[str, Any], max_remembered: int = 10) -> None:
        self.now = NOW
        self.tokens = NodeTokenVerifier(ISSUER, AUDIENCE, time=lambda: self.now, max_remembered=max_remembered)
        self.tokens.use(parse_keys(key_set(*(keys or (jwk("k1"),)))))

    def node(self, token: str) -> str:
        """Do as the gate does."""
        digest = sha256(token.encode()).digest()
        return self.tokens.remembered(digest) or self.tokens.node(token.encode(), digest)

    def refused(self, token: str) -> str:
        """Return why a token is 401."""
        with pytest.raises(Unauthorized) as raised:
            self.node(token)
        assert len(token) < 16 or token not in str(raised.value)
        return str(raised.value)


def encoded(value: Any) -> str:
    """Return a part of a JWT."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_bound_token_names_its_node() -> None:
    """As the kubelet hands it to a pod."""
    assert Verifying().node(signed(claims("node-7", now=NOW))) == "node-7"


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["api", AUDIENCE]])
def test_an_audience_may_be_one_of_several(audience: Any) -> None:
    """A text, or a list that has it."""
    assert Verifying().node(signed(claims(now=NOW, aud=audience))) == "n1"


def test_elliptic_curves_are_taken() -> None:
    """As some clusters sign."""
    token = signed(claims(now=NOW), ec_key(), algorithm="ES256")
    assert Verifying(jwk("k1", ec_key())).node(token) == "n1"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"iss": "https://elsewhere"}, "claim iss"),
        ({"iss": None}, "claim iss"),
        ({"aud": "api"}, "claim aud"),
        ({"aud": ["api"]}, "claim aud"),
        ({"aud": None}, "claim aud"),
        ({"aud": {AUDIENCE: 1}}, "claim aud"),
        ({"kubernetes.io": None}, "kubernetes.io/node/name"),
        ({"kubernetes.io": "n1"}, "kubernetes.io/node/name"),
        ({"kubernetes.io": {"node": {"name": ""}}}, "kubernetes.io/node/name"),
        ({"kubernetes.io": {"node": {"name": 1}}}, "kubernetes.io/node/name"),
        ({"kubernetes.io": {"node": ["n1"]}}, "kubernetes.io/node/name"),
    ],
)
def test_a_token_for_something_else_is_403(changed: dict[str, Any], said: str) -> None:
    """The text names the claim."""
    with pytest.raises(Forbidden, match=said):
        Verifying().node(signed(claims(now=NOW, **changed)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": int(NOW) - LEEWAY}, "expired"),
        ({"exp": None}, "exp is missing"),
        ({"exp": "tomorrow"}, "exp is missing"),
        ({"exp": True}, "exp is missing"),
        ({"nbf": int(NOW) + LEEWAY + 1}, "not valid yet"),
        ({"nbf": [1]}, "no time"),
    ],
)
def test_a_token_out_of_its_time_is_401(changed: dict[str, Any], said: str) -> None:
    """Beyond what the issuer's clock may be off."""
    token = signed({name: value for name, value in claims(now=NOW).items() if name not in changed})
    if any(value is not None for value in changed.values()):
        head, _, _ = token.partition(".")
        payload = encoded({**claims(now=NOW), **changed})
        signature = _sign(f"{head}.{payload}")
        token = f"{head}.{payload}.{signature}"
    assert said in Verifying().refused(token)


def _sign(data: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return encoded(rsa_key().sign(data.encode(), PKCS1v15(), SHA256()))


def test_the_clocks_may_differ_a_little() -> None:
    """By LEEWAY either way."""
    verifying = Verifying()
    assert verifying.node(signed(claims(now=NOW, nbf=int(NOW) + LEEWAY))) == "n1"
    assert verifying.node(signed(claims(now=NOW, exp=int(NOW) - LEEWAY + 1))) == "n1"


@pytest.mark.parametrize("odd", ["\n", "\r", " ", "\x00", "=", "*", "\t", ".", ".x"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_token_has_no_byte_too_many(odd: str, place: int) -> None:
    """PyJWT passes over what is not base64; here one token has one spelling, and no end of a line is in it."""
    parts = signed(claims(now=NOW)).split(".")
    spoiled = (
        odd + ".".join(parts) if place == 3 else ".".join([*parts[:place], parts[place] + odd, *parts[place + 1 :]])
    )
    assert Verifying().refused(spoiled)


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "1e400", "-" + "9" * 5000, "1e5000"])
def test_a_time_of_many_digits(number: str) -> None:
    """It is refused as no time, and nothing else happens."""
    payload = json.dumps(claims(now=NOW) | {"exp": 0}).replace('"exp": 0', f'"exp": {number}')
    said = f"{encoded({'alg': 'RS256', 'kid': 'k1'})}.{encoded(payload.encode())}"
    assert Verifying().refused(f"{said}.{_sign(said)}")


def test_a_token_that_nobody_signed() -> None:
    """`alg: none` is 401, with a signature or without."""
    head, payload = encoded({"alg": "none", "kid": "k1"}), encoded(claims(now=NOW))
    for signature in ("", "eA"):
        assert "no kind that is taken" in Verifying().refused(f"{head}.{payload}.{signature}")


@pytest.mark.parametrize("secret", [Encoding.PEM, Encoding.DER])
def test_the_public_key_is_no_secret(secret: Encoding) -> None:
    """A token that is signed with HS256 and the public key, which everybody has, is 401."""
    public = rsa_key().public_key().public_bytes(secret, PublicFormat.SubjectPublicKeyInfo)
    said = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{encoded(claims(now=NOW))}"
    mac = hmac.digest(public, said.encode(), "sha256")
    assert "no kind that is taken" in Verifying().refused(f"{said}.{encoded(mac)}")


def test_another_key_of_the_same_name() -> None:
    """Somebody else's signature is 401."""
    assert "signature is wrong" in Verifying().refused(signed(claims(now=NOW), rsa_key(2)))


def test_another_algorithm_than_the_keys() -> None:
    """A key signs with its own algorithm alone."""
    assert "signature is wrong" in Verifying().refused(signed(claims(now=NOW), algorithm="PS256"))


def test_changed_claims() -> None:
    """The signature is of what was signed."""
    head, _, signature = signed(claims("n1", now=NOW)).split(".")
    assert "signature is wrong" in Verifying().refused(f"{head}.{encoded(claims('n2', now=NOW))}.{signature}")


@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=60))
def test_whatever_comes_is_401(text: str) -> None:
    """And no other exception."""
    assert Verifying().refused(text)
    assert Verifying().refused(f"{encoded({'alg': 'RS256', 'kid': 'k1'})}.{text}.x")


@pytest.mark.parametrize(
    "header", [{}, {"alg": "RS256", "kid": 1}, {"alg": ["RS256"]}, {"alg": "RS256", "crit": ["x"], "x": 1}, []]
)
def test_odd_headers_are_401(header: Any) -> None:
    """Of whatever shape."""
    assert Verifying().refused(f"{encoded(header)}.{encoded(claims(now=NOW))}.eA")


def test_a_token_without_a_key_id() -> None:
    """Is of the only key, if there is only one."""
    token = signed(claims(now=NOW), kid=None)
    assert Verifying().node(token) == "n1"
    assert "no key" in Verifying(jwk("k1"), jwk("k2", rsa_key(2))).refused(token)


class TestKeys:
    """Keys come and go."""

    def test_an_unknown_key_is_asked_for(self) -> None:
        """503 while it may turn up, 401 when it is nobody's; and taken once it is there."""
        verifying = Verifying()
        token = signed(claims(now=NOW), rsa_key(2), kid="k2")
        verifying.tokens.wanted = lambda: True
        with pytest.raises(KeysPending):
            verifying.node(token)
        verifying.tokens.wanted = lambda: False
        assert "no key of the issuer" in verifying.refused(token)
        verifying.tokens.use(parse_keys(key_set(jwk("k1"), jwk("k2", rsa_key(2)))))
        assert verifying.node(token) == "n1"

    def test_a_key_that_is_gone_takes_its_tokens_with_it(self) -> None:
        """Those that were verified before are not remembered."""
        verifying = Verifying()
        token = signed(claims(now=NOW))
        assert verifying.node(token) == "n1"
        verifying.tokens.use(parse_keys(key_set(jwk("k2", rsa_key(2)))))
        assert "no key of the issuer" in verifying.refused(token)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keys": 1}',
            b'{"keys": []}',
            b'{"keys": [1, {}, {"kty": "oct", "k": "eA"}]}',
            b'{"keys": [{"kty": "oct"}]}',
            b'{"keys": [{"kty": "RSA", "e": "AQAB"}, {"kty": "EC", "crv": "P-256"}, {"kty": "OKP"}]}',
            b"\xff",
            b"[" * 2000,
        ],
    )
    def test_what_is_no_key_set(self, data: bytes) -> None:
        """A ValueError, and no other."""
        with pytest.raises(ValueError, match="is no JSON Web Key Set|holds no key"):
            parse_keys(data)

    def test_keys_of_other_kinds_are_passed_over(self) -> None:
        """For encryption, symmetric, broken or unknown; one that is fine beside them is taken."""
        secret = {"kty": "oct", "k": encoded(b"0" * 32), "kid": "secret", "alg": "HS256"}
        broken = {**jwk("broken"), "n": "!"}
        unknown = {"kty": "LATTICE", "kid": "unknown"}
        lacking = {"kty": "oct", "kid": "lacking", "alg": "HS256"}
        posing = {**secret, "kid": "posing", "alg": "RS256"}
        keys = parse_keys(
            key_set(secret, posing, lacking, jwk("enc", use="enc"), broken, unknown, jwk("odd", alg="HS256"), jwk("k1"))
        )
        assert list(keys) == ["k1"]

    def test_a_private_key_is_passed_over(self) -> None:
        """It has no business in a key set, and its primes, if they are left out, take minutes to be worked out."""
        private = {**jwk("private"), **json.loads(RSAAlgorithm.to_jwk(rsa_key()))}
        assert list(parse_keys(key_set(private, jwk("k1")))) == ["k1"]


class TestRemembered:
    """What was verified once is not verified again, as long as it holds."""

    def test_a_signature_is_checked_once(self) -> None:
        """The second report needs no key."""
        verifying = Verifying()
        token = signed(claims(now=NOW))
        assert verifying.node(token) == "n1"
        verifying.tokens._keys = {}
        assert verifying.node(token) == "n1"

    def test_until_it_expires(self) -> None:
        """And no longer."""
        verifying = Verifying()
        token = signed(claims(now=NOW, exp=int(NOW) + 60))
        assert verifying.node(token) == "n1"
        verifying.now += 60 + LEEWAY
        assert "expired" in verifying.refused(token)

    def test_memory_is_bounded(self) -> None:
        """The oldest are forgotten."""
        verifying = Verifying(max_remembered=3)
        for number in range(6):
            verifying.node(signed(claims(f"n{number}", now=NOW)))
        assert sorted(node for node, _ in verifying.tokens._verified.values()) == ["n3", "n4", "n5"]

    def test_a_refused_token_is_not(self) -> None:
        """It takes no memory."""
        verifying = Verifying()
        with pytest.raises(Forbidden):
            verifying.node(signed(claims(None, now=NOW)))
        assert not verifying.tokens._verified

"""Who may do what: the gate."""

from __future__ import annotations

from hashlib import sha256

import pytest

from orchestratord.errors import Fault, Forbidden, Unauthorized
from orchestratord.security.gate import Gate, Role
from orchestratord.security.token_file import MAX_TOKEN

TOKENS = {role: [f"{role}-token-0123456789".encode()] for role in Role}


class FakeBound:
    """Verifies one token."""

    TOKEN = b"eyJ.a-token-of-node.n1"

    def remembered(self, digest: bytes) -> str | None:
        """Return the node of the one token."""
        return "n1" if digest == sha256(self.TOKEN).digest() else None

    def node(self, token: bytes, digest: bytes) -> str:
        """Verify a token."""
        del digest
        if token != self.TOKEN:
            raise Unauthorized("the token does not verify", wrong=True)
        return "n1"


def outcome(gate: Gate, role: Role, authorization: bytes | None) -> type[Fault] | str | None:
    """Return what the gate says to a client."""
    try:
        return gate.admit(role, authorization)
    except Fault as fault:
        return type(fault)


class TestGate:
    """Gate: who is let in."""

    @pytest.mark.parametrize("wanted", Role)
    @pytest.mark.parametrize("had", Role)
    def test_each_role_has_its_own_tokens(self, wanted: Role, had: Role) -> None:
        """Its own: in. Another's: 403. None, or nobody's: 401."""
        gate = Gate(TOKENS)
        assert outcome(gate, wanted, b"Bearer " + TOKENS[had][0]) is (None if wanted is had else Forbidden)
        assert outcome(gate, wanted, None) is Unauthorized
        assert outcome(gate, wanted, b"Bearer nobodys-token-0123456789") is Unauthorized

    def test_a_role_without_tokens_is_open(self) -> None:
        """Whatever is sent there."""
        gate = Gate({Role.ADMIN: TOKENS[Role.ADMIN]})
        assert gate.open_roles == [Role.REPORT, Role.QUERY, Role.SCRAPE]
        for authorization in (None, b"Bearer x", b"Basic eDp5", b"\xff"):
            assert outcome(gate, Role.REPORT, authorization) is None
        assert gate.admit(None, None) is None

    @pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
    def test_the_scheme_is_read_in_any_case(self, scheme: bytes) -> None:
        """As RFC 9110 has it."""
        assert outcome(Gate(TOKENS), Role.QUERY, scheme + TOKENS[Role.QUERY][0]) is None

    @pytest.mark.parametrize(
        "authorization",
        [
            b"",
            b"Bearer",
            b"Bearer ",
            TOKENS[Role.QUERY][0],
            b"Basic " + TOKENS[Role.QUERY][0],
            b"Bearer " + TOKENS[Role.QUERY][0] + b", Bearer " + TOKENS[Role.QUERY][0],
            b"Bearer " + TOKENS[Role.QUERY][0][:-1],
            b"Bearer " + TOKENS[Role.QUERY][0] + b"x",
            b"Bearer " + b"x" * (MAX_TOKEN + 1),
            b"Bearer \xff\x00",
        ],
    )
    def test_what_is_no_token(self, authorization: bytes) -> None:
        """It is 401, with the challenge that says so."""
        with pytest.raises(Unauthorized) as raised:
            Gate(TOKENS).admit(Role.QUERY, authorization)
        assert raised.value.headers == ((b"WWW-Authenticate", b'Bearer error="invalid_token"'),)

    def test_the_challenge_to_who_has_shown_nothing(self) -> None:
        """It names the scheme, and calls nothing invalid."""
        with pytest.raises(Unauthorized) as raised:
            Gate(TOKENS).admit(Role.QUERY, None)
        assert raised.value.headers == ((b"WWW-Authenticate", b"Bearer"),)

    def test_promql_has_prometheus_envelope(self) -> None:
        """A refusal there has an `errorType` of its own."""
        assert Unauthorized("x", wrong=False).envelope == {
            "status": "error",
            "errorType": "unauthorized",
            "error": "x",
        }
        assert Forbidden("x").envelope["errorType"] == "forbidden"

    def test_rotation(self) -> None:
        """Tokens that are used in the place of others are known at once, and those others are not."""
        gate = Gate(TOKENS)
        gate.use(Role.QUERY, [b"a-newer-token-01234"])
        assert outcome(gate, Role.QUERY, b"Bearer a-newer-token-01234") is None
        assert outcome(gate, Role.QUERY, b"Bearer " + TOKENS[Role.QUERY][0]) is Unauthorized

    def test_a_token_that_speaks_for_a_node(self) -> None:
        """It reports for that node; a token of the role's file reports for any; it is another role's anywhere else."""
        gate = Gate(TOKENS, FakeBound())
        assert outcome(gate, Role.REPORT, b"Bearer " + FakeBound.TOKEN) == "n1"
        assert outcome(gate, Role.REPORT, b"Bearer " + TOKENS[Role.REPORT][0]) is None
        assert outcome(gate, Role.REPORT, b"Bearer " + TOKENS[Role.QUERY][0]) is Forbidden
        assert outcome(gate, Role.REPORT, b"Bearer nobodys-token-0123456789") is Unauthorized
        assert outcome(gate, Role.QUERY, b"Bearer " + FakeBound.TOKEN) is Forbidden
        assert outcome(gate, Role.QUERY, b"Bearer nobodys-token-0123456789") is Unauthorized

    def test_a_token_that_is_too_long_is_not_verified(self) -> None:
        """Nor anything else that is no token's size, however much of it is right."""
        gate = Gate({}, FakeBound())
        with pytest.raises(Unauthorized, match="Authorization must be"):
            gate.admit(Role.REPORT, b"Bearer " + FakeBound.TOKEN.ljust(MAX_TOKEN + 1, b"x"))

    def test_node_tokens_alone_shut_the_role(self) -> None:
        """Without a token file too."""
        gate = Gate({}, FakeBound())
        assert Role.REPORT not in gate.open_roles
        assert outcome(gate, Role.REPORT, None) is Unauthorized

    def test_a_token_of_two_roles(self) -> None:
        """It has both, and no third."""
        token = TOKENS[Role.QUERY][0]
        gate = Gate({**TOKENS, Role.SCRAPE: [token]})
        outcomes = [outcome(gate, role, b"Bearer " + token) for role in Role]
        assert outcomes == [Forbidden, None, None, Forbidden]

    def test_it_holds_no_token(self) -> None:
        """Nothing of it, printed or pickled, gives one away."""
        assert TOKENS[Role.QUERY][0].decode() not in repr(vars(Gate(TOKENS)))

"""From Settings to the gate: files read, followed, and kept out of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from orchestratord.config.loader import load
from orchestratord.errors import Fault
from orchestratord.runtime.file_reload import FilesError
from orchestratord.security.gate import Role
from orchestratord.wiring.access import make_gate_service
from tests.fakes import NOW
from tests.options import by_name
from tests.tokens import AUDIENCE, ISSUER, claims, jwk, key_set, rsa_key, signed

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO, THREE = "token-number-one-1", "token-number-two-2", "token+number/three=="


class Made:
    """A keyring on a clock."""

    def __init__(self, **flags: Any) -> None:
        self.clock = Clock()
        settings = load(by_name(flags), {"HOME": "/h"})
        self.gate_service = make_gate_service(self.clock, settings, lambda: NOW)

    def start(self) -> str:
        """Start it; return what it logs."""
        with capturedLogs() as logs:
            self.gate_service.startService()
        return "\n".join(formatEvent(event) for event in logs)

    def lets_in(self, role: Role, token: str) -> bool:
        """Return whether a token opens a role."""
        try:
            self.gate_service.gate.admit(role, f"Bearer {token}".encode())
        except Fault:
            return False
        return True


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files with a token each."""
    for name, token in {"one": ONE, "two": TWO, "three": THREE}.items():
        (tmp_path / name).write_text(f"{token}\n")
    return tmp_path


def test_a_role_may_have_several_files(files: Path) -> None:
    """All their tokens count, and a change in one of them keeps the other's."""
    made = Made(token_file=[f"query={files}/one", f"query={files}/two", f"admin={files}/three"])
    made.start()
    assert all(made.lets_in(Role.QUERY, token) for token in (ONE, TWO))
    (files / "one").write_text("token-number-four-4")
    made.clock.advance(1)
    assert [made.lets_in(Role.QUERY, token) for token in (ONE, TWO, "token-number-four-4")] == [False, True, True]
    assert made.gate_service.tokens(Role.QUERY) == [b"token-number-four-4", TWO.encode()]
    assert made.gate_service.path(Role.QUERY) == files / "one"
    assert made.gate_service.path(Role.REPORT) is None


def test_the_start_says_which_roles_are_open(files: Path) -> None:
    """In one line."""
    assert Made().start() == "roles open to everybody, without a token: report, query, scrape, admin"
    some = Made(token_file=[f"report={files}/one", f"admin={files}/two"])
    assert some.start() == "roles open to everybody, without a token: query, scrape"
    every = Made(token_file=[f"{role}={files}/one" for role in Role])
    assert every.start() == "roles open to everybody, without a token: none"


def test_who_follows_a_role_is_told(files: Path) -> None:
    """Of its changes and of no other's."""
    made = Made(token_file=[f"scrape={files}/one", f"admin={files}/two"])
    made.start()
    told: list[list[bytes]] = []
    made.gate_service.follow(Role.SCRAPE, lambda: told.append(made.gate_service.tokens(Role.SCRAPE)))
    (files / "two").write_text(THREE)
    made.clock.advance(1)
    (files / "one").write_text(THREE)
    made.clock.advance(1)
    assert told == [[THREE.encode()]]


@pytest.mark.parametrize(
    "flags",
    [
        {"token_file": ["query={files}/none"]},
        {"report_oidc_jwks": "{files}/none"},
        {"report_oidc_jwks": "{files}/one"},
        {"report_oidc_jwks": "https://issuer.test/keys", "report_oidc_ca": "{files}/one"},
        {"report_oidc_jwks": "https://issuer.test/keys", "report_oidc_token_file": "{files}/none"},
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(files: Path, flags: dict[str, Any]) -> None:
    """In one line with the option, the path and the reason."""
    named = next(reversed(by_name(flags)))
    filled = {
        name: [one.format(files=files) for one in value] if isinstance(value, list) else value.format(files=files)
        for name, value in flags.items()
    }
    if "report_oidc_jwks" in filled:
        filled |= {"report_oidc_issuer": ISSUER, "report_oidc_audience": AUDIENCE}
    with pytest.raises(FilesError, match=rf"^(--)?{named}( query)?: '{files}/") as raised:
        Made(**filled)
    assert "\n" not in str(raised.value)
    assert ONE not in str(raised.value)


def test_keys_of_a_file_are_followed(files: Path) -> None:
    """A key that is added is known within a second, one that is taken out no longer."""
    keys = files / "keys"
    keys.write_bytes(key_set(jwk("k1")))
    made = Made(report_oidc_jwks=str(keys), report_oidc_issuer=ISSUER, report_oidc_audience=AUDIENCE)
    assert "report" not in made.start()
    first, second = signed(claims(now=NOW)), signed(claims(now=NOW), rsa_key(2), kid="k2")
    assert [made.lets_in(Role.REPORT, token) for token in (first, second)] == [True, False]
    keys.write_bytes(key_set(jwk("k2", rsa_key(2))))
    made.clock.advance(1)
    assert [made.lets_in(Role.REPORT, token) for token in (first, second)] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        f"/nodes/{ONE}",
        f"/query?q=up&access_token={ONE}",
        f"{ONE} /nodes",
        "/query?access_token=nobody-knows-this-one&q=up",
        "/query?q=up&bearerToken=nobody-knows-this-one",
        "/nodes/token%2Bnumber%2Fthree%3D%3D",
        f"/nodes?x={signed(claims(now=NOW))}",
    ],
)
def test_what_is_logged_has_no_token(files: Path, text: str) -> None:
    """Wherever in a URL a client has put it."""
    made = Made(token_file=[f"query={files}/one", f"admin={files}/three"])
    shown = made.gate_service.redacted(text.encode()).decode()
    assert "[token]" in shown
    assert not any(token in shown for token in (ONE, "nobody-knows-this-one", "three", "eyJ"))


def test_what_is_no_token_is_logged_as_it_is() -> None:
    """A log without queries is of no use."""
    text = b"/api/v1/query?query=sum(max_over_time(page_faults[5m]))&time=1795424400"
    assert Made().gate_service.redacted(text) == text

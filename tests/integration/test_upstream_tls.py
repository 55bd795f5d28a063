"""Upstreams over https, and who we are to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority
from tests.integration.daemon import Daemon, until
from tests.integration.upstream import Exchange, FakeUpstream, found_nothing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has signed `server`, for 127.0.0.1, `elsewhere`, for another name, and `client`."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1", "localhost")
    authority.issue("elsewhere", "prometheus.example.org")
    authority.issue("client")
    return authority


def refusal(daemon: Daemon) -> str:
    """Ask, and return why no Prometheus could answer."""
    answer = daemon.get("/query", {"q": "up"})
    assert answer.status_code == 502
    assert answer.json()["errorType"] == "unavailable"
    text: str = answer.json()["error"]
    return text


def test_a_private_authority_and_our_own_certificate(start: Callable[..., Daemon], authority: Authority) -> None:
    """The upstream is verified by its name, as by its address, and sees who we are."""
    seen: list[str] = []

    def answer(exchange: Exchange) -> None:
        connection: Any = exchange.socket
        seen.append(str(connection.getpeercert()["subject"]))
        found_nothing(exchange)

    with FakeUpstream(answer, authority.server_context("server", client_certificates=True)) as upstream:
        files = (
            "--prometheus_http.ca_file",
            str(authority.path),
            "--prometheus_http.cert_file",
            str(authority.certificate("client")),
        )
        for url in (upstream.url, f"https://localhost:{upstream.port}"):
            daemon = start("--prometheus", url, *files, "--prometheus_http.key_file", str(authority.key("client")))
            assert daemon.get("/query", {"q": "up"}).status_code == 200
        assert seen == ["((('commonName', 'client'),),)"] * 2
        nobody = start("--prometheus", upstream.url, "--prometheus_http.ca_file", str(authority.path))
        assert "OpenSSL" not in refusal(nobody)
        assert "[(" not in refusal(nobody)
        assert len(seen) == 2


def test_one_that_is_not_who_it_should_be_is_refused(start: Callable[..., Daemon], authority: Authority) -> None:
    """By another authority, or of another name: 502, in words; and it is told nothing."""
    with (
        FakeUpstream(found_nothing, authority.server_context("server")) as private,
        FakeUpstream(found_nothing, authority.server_context("elsewhere")) as elsewhere,
    ):
        assert refusal(start("--prometheus", private.url)).endswith(
            f"{private.url}: certificate verify failed: unable to get local issuer certificate"
        )
        assert refusal(start("--prometheus", elsewhere.url, "--prometheus_http.ca_file", str(authority.path))).endswith(
            f"{elsewhere.url}: certificate verify failed: it is not for 127.0.0.1"
        )
        assert private.asked == elsewhere.asked == []


def test_a_token_rotates(start: Callable[..., Daemon], authority: Authority, tmp_path: Path) -> None:
    """The upstream sees the one that is in the file now; the log and the answers see none."""
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    with FakeUpstream(found_nothing, authority.server_context("server")) as upstream:
        daemon = start(
            *("--prometheus", upstream.url, "--prometheus_http.ca_file", str(authority.path), "--access-log"),
            *("--prometheus_http.credentials_file", str(token)),
        )

        def shown() -> str:
            assert daemon.get("/query", {"q": "up"}).status_code == 200
            return upstream.asked[-1].headers["authorization"]

        assert shown() == "Bearer first-secret"
        token.write_text("second-secret\n")
        until(lambda: shown() == "Bearer second-secret", "the new token")
        token.write_text("two secret words")
        until(lambda: shown() and "what was read before stays in use" in daemon.output(), "a line about the wrong file")
        daemon.said(f"prometheus_http.credentials_file: '{token}' holds no token: ")
        assert shown() == "Bearer second-secret"
        assert "secret" not in daemon.output()
        assert "secret" not in daemon.get("/metrics").text


def test_user_and_password(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """In clear too, which the log warns of."""
    file = tmp_path / "file"
    file.write_text("user:pass\n")
    with FakeUpstream(found_nothing) as upstream:
        daemon = start("--prometheus", upstream.url, "--prometheus_http.basic_auth_file", str(file))
        assert daemon.get("/query", {"q": "up"}).status_code == 200
        assert upstream.asked[-1].headers["authorization"] == "Basic dXNlcjpwYXNz"
        daemon.said(f"credentials are sent to {upstream.url} unencrypted")


def test_credentials_do_not_follow_a_redirect(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It is not followed at all."""
    token = tmp_path / "token"
    token.write_text("secret")
    with FakeUpstream(found_nothing) as thief:

        def away(exchange: Exchange) -> None:
            exchange.reply("307 Temporary Redirect", "application/json", b"{}", f"Location: {thief.url}/api/v1/query")

        with FakeUpstream(away) as upstream:
            daemon = start("--prometheus", upstream.url, "--prometheus_http.credentials_file", str(token))
            assert "redirect" in refusal(daemon)
        assert thief.asked == []


def test_a_file_without_a_token_ends_the_start(tmp_path: Path) -> None:
    """In one line, that does not hold what is in the file."""
    token = tmp_path / "token"
    token.write_text("secret words")
    daemon = Daemon(tmp_path / "home", "--prometheus_http.credentials_file", str(token))
    try:
        assert daemon.wait() == 1
        daemon.said(f"^twistd orchestrator: prometheus_http.credentials_file: '{token}' holds no token: ")
        assert "secret" not in daemon.output()
    finally:
        daemon.close()

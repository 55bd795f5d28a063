"""Who may do what, with the daemon as twistd starts it: roles, rotation, node-bound reports, and nothing in the log."""

from __future__ import annotations

import json
import re
import ssl
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pytest
import requests

from tests.certificates import Authority
from tests.integration.daemon import PATIENCE, TWISTD, Daemon, Server, full_report, report, until
from tests.integration.stores import result
from tests.integration.upstream import FakeUpstream, found_nothing
from tests.peers import jwks_refusal
from tests.tokens import AUDIENCE, ISSUER, claims, jwk, key_set, rsa_key, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

pytestmark = pytest.mark.integration

ROLES = ("report", "query", "scrape", "admin")
#: With all the characters that a token may have.
TOKENS = {role: f"{role}-token-+/{role}-0123456789==" for role in ROLES}

#: Every route, by method, path and the role that it takes; None: it is always open.
ROUTES = [
    ("POST", "/update_metrics", "report", 200),
    ("GET", "/query?q=up", "query", 200),
    ("POST", "/query?q=up", "query", 200),
    ("GET", "/api/v1/query?query=up", "query", 200),
    ("POST", "/api/v1/query?query=up", "query", 200),
    ("GET", "/api/v1/query_range?query=up&start=1&end=2&step=1", "query", 200),
    ("GET", "/api/v1/series?match[]=up", "query", 200),
    ("GET", "/api/v1/labels", "query", 200),
    ("GET", "/api/v1/label/job/values", "query", 200),
    ("GET", "/api/v1/metadata", "query", 200),
    ("GET", "/api/v1/rules", "query", 200),
    ("GET", "/api/v1/alerts", "query", 200),
    ("GET", "/fleet", "query", 200),
    ("GET", "/api/v1/format_query?query=up", "query", 200),
    ("GET", "/api/v1/query_exemplars?query=up&start=1&end=2", "query", 200),
    ("GET", "/api/v1/status/buildinfo", "query", 200),
    ("GET", "/nodes", "query", 200),
    ("GET", "/nodes?details=true", "query", 200),
    ("GET", "/nodes/n1", "query", 200),
    ("HEAD", "/nodes/n1", "query", 200),
    ("DELETE", "/nodes/drained", "admin", 204),
    ("GET", "/metrics", "scrape", 200),
    ("HEAD", "/metrics", "scrape", 200),
    ("GET", "/metrics?name[]=up", "scrape", 200),
    ("GET", "/%6detrics", "scrape", 200),
    ("GET", "/", None, 200),
    ("GET", "/-/healthy", None, 200),
    ("GET", "/-/ready", None, 200),
]


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def write_tokens(home: Path) -> list[str]:
    """Write a file for each role; return the options that name them."""
    home.mkdir(exist_ok=True)
    for role, token in TOKENS.items():
        (home / role).write_text(f"# {role}\n{token}\n")
    return [part for role in ROLES for part in ("--token-file", f"{role}={home / role}")]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon whose every role has a token, with its access log on, and an upstream that finds nothing."""
    home = tmp_path_factory.mktemp("guarded")
    options = write_tokens(home / "tokens")
    with FakeUpstream(found_nothing) as upstream:
        daemon = Daemon(home / "daemon", "--prometheus", upstream.url, "--access-log", *options)
        try:
            yield daemon.started()
            daemon.stop()
        finally:
            daemon.close()


def asked(daemon: Daemon, method: str, path: str, token: str | None) -> requests.Response:
    """Return the answer to a request with this token."""
    return requests.request(
        method,
        daemon.url + path,
        json=full_report("n1") if path == "/update_metrics" else None,
        headers=bearer(token) if token else {},
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(("method", "path", "role", "own"), ROUTES, ids=[f"{route[0]}-{route[1]}" for route in ROUTES])
def test_each_route_and_token(guarded: Daemon, method: str, path: str, role: str | None, own: int) -> None:
    """No token: 401. Nobody's: 401. Another role's: 403. Its own: in. What is open is open to all of them."""
    for node in ("n1", "drained"):
        guarded.post(report(node), headers=bearer(TOKENS["report"])).raise_for_status()
    others = {other: asked(guarded, method, path, TOKENS[other]).status_code for other in ROLES if other != role}
    nothing, unknown = asked(guarded, method, path, None), asked(guarded, method, path, "nobodys-token-0123456789")
    if role is None:
        assert {nothing.status_code, unknown.status_code, *others.values()} == {own}
        return
    assert others == {other: 403 for other in ROLES if other != role}
    assert (nothing.status_code, unknown.status_code) == (401, 401)
    assert nothing.headers["WWW-Authenticate"] == "Bearer"
    assert unknown.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    if method != "HEAD":
        promql = path.startswith(("/query", "/api/"))
        assert nothing.json().keys() == ({"status", "errorType", "error"} if promql else {"error"})
    assert asked(guarded, method, path, TOKENS[role]).status_code == own


def test_a_refused_report_is_not_stored(guarded: Daemon) -> None:
    """Nor is it counted as anything but refused."""
    for token in (None, "nobodys-token-0123456789", TOKENS["query"]):
        assert guarded.post(report("intruder"), headers=bearer(token) if token else {}).status_code in {401, 403}
    assert guarded.get("/nodes/intruder", headers=bearer(TOKENS["query"])).status_code == 404
    text = guarded.get("/metrics", headers=bearer(TOKENS["scrape"])).text
    assert re.search(r'orchestrator_reports_total\{outcome="unauthorized"\} [1-9]', text)
    assert re.search(r'orchestrator_reports_total\{outcome="forbidden"\} [1-9]', text)
    assert re.search(
        r'orchestrator_http_requests_total\{code="401",method="POST",route="/update_metrics"\} [1-9]', text
    )


def test_a_body_of_a_stranger_is_not_read(guarded: Daemon) -> None:
    """The answer is there before the body is, however long that says it will be."""
    for headers in (
        ("Content-Length: 1000000",),
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 9", "Expect: 100-continue"),
    ):
        with guarded.wire() as wire:
            wire.request("POST", "/update_metrics", *headers)
            answer = wire.answer()
            assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_start_log(guarded: Daemon, start: Callable[..., Daemon], tmp_path: Path) -> None:
    """One line says which roles are open."""
    guarded.said(r"roles open to everybody, without a token: none\n")
    (tmp_path / "one").write_text(TOKENS["admin"])
    some = start("--token-file", f"admin={tmp_path / 'one'}")
    some.said(r"roles open to everybody, without a token: report, query, scrape\n")
    assert some.post(report("n1")).status_code == 200
    assert requests.delete(f"{some.url}/nodes/n1", timeout=PATIENCE).status_code == 401


def test_rotation(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A new token is taken and an old one refused within a second or two of the change; nothing is started again."""
    old, new = "an-old-token-0123456789", "a-new-token-0123456789"
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "token").write_text(old)
    # As Kubernetes has it in a Secret's volume.
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "token").symlink_to("..data/token")
    daemon = start("--token-file", f"report={tmp_path / 'token'}", "--token-file", f"query={tmp_path / 'token'}")

    def takes(token: str) -> set[int]:
        posted = daemon.post(report("n1"), headers=bearer(token)).status_code
        return {posted, daemon.get("/nodes", headers=bearer(token)).status_code}

    assert (takes(old), takes(new)) == ({200}, {401})
    for version, held, expected in (
        ("v2", (new, old), ({200}, {200})),
        ("v3", (new,), ({401}, {200})),
        ("v4", (old,), ({200}, {401})),
    ):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text("\n".join(held))
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").replace(tmp_path / "..data")
        until(lambda expected=expected: (takes(old), takes(new)) == expected, f"{version} in force")  # type: ignore[misc]
    (tmp_path / "v4" / "token").write_text("")
    daemon.said(r"holds no token; what was read before stays in use")
    assert takes(old) == {200}
    assert not {old, new} & set(re.findall(r"[\w-]+", daemon.output()))


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "short\n"])
def test_a_bad_file_ends_the_start(tmp_path: Path, content: str | None) -> None:
    """With one line that names the option and the file, before any socket opens."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    daemon = Daemon(tmp_path / "daemon", "--token-file", f"report={path}")
    try:
        assert daemon.wait() == 1
        (line,) = daemon.output().splitlines()
        assert line.startswith(f"twistd orchestrator: --token-file report: '{path}' ")
    finally:
        daemon.close()


def test_tokens_are_never_logged(guarded: Daemon) -> None:
    """Not with the access log, and not where a client puts them in a wrong place."""
    token = TOKENS["query"]
    quoted = quote(token, safe="")
    jwt = signed(claims(now=time.time()))
    for path in (
        f"/nodes/{quoted}",
        f"/query?q=up&access_token={quoted}",
        f"/query?q={quoted}",
        f"/{quoted}",
        f"/nodes?token={jwt}",
    ):
        guarded.get(path, headers=bearer(token))
        guarded.get(path)
    for place in (f"Basic {token}", token, f"Bearer {token} {token}", f"bearer {token}", f"Bearer {jwt}"):
        guarded.post(report("n1"), headers={"Authorization": place})
        guarded.get("/nodes", headers={"Authorization": place})
    requests.get(guarded.url.replace("//", f"//user:{quoted}@") + "/nodes", timeout=PATIENCE)
    with guarded.wire() as wire:
        wire.request(token.rstrip("="), "/nodes")
        wire.answer()
    with guarded.wire() as wire:
        wire.get(f"/nodes?{token}", f"X-Token: {token}", f"Cookie: token={token}")
        wire.answer()
    guarded.post(report("n1", **{token: 1}), headers=bearer(TOKENS["report"]))
    guarded.post_bytes(token, Content_Type=token, Authorization=f"Bearer {TOKENS['report']}")
    text = guarded.output()
    assert "[token]" in text
    for secret in (*TOKENS.values(), *(quote(one, safe="") for one in TOKENS.values()), jwt):
        assert secret not in text


class Issuer:
    """A Kubernetes API server as far as its keys go: TLS of its own authority, and a token to be shown."""

    PATH = "/openid/v1/jwks"

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.keys = key_set(jwk("k1"))
        self.asked = 0
        self.broken = False
        authority = Authority(home)
        served = authority.issue("issuer", "127.0.0.1")
        self.ca, self.token = authority.path, home / "token"
        self.token.write_text("service-account-token-1")
        (home / "served.pem").write_bytes(served.pem + served.key_pem)
        issuer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                expected = f"Bearer {issuer.token.read_text()}"
                known = self.headers["Authorization"] == expected
                refused = jwks_refusal("GET", self.path, self.headers["Accept"])
                # A kube-apiserver asks who it is before it looks at anything else.
                self.send_response(500 if issuer.broken else (refused or 200) if known else 401)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(issuer.keys)))
                self.end_headers()
                self.wfile.write(issuer.keys)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "served.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self._thread = Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(PATIENCE)

    @property
    def options(self) -> tuple[str, ...]:
        """What the daemon has to be told of it."""
        return (
            *("--oidc.jwks", f"https://127.0.0.1:{self.server.server_port}{self.PATH}"),
            *("--oidc.ca_file", str(self.ca)),
            *("--oidc.credentials_file", str(self.token)),
            *("--oidc.issuer", ISSUER, "--oidc.audience", AUDIENCE),
        )


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """Give an issuer of tokens."""
    with Issuer(tmp_path / "issuer") as issuer:
        yield issuer


def of_node(node: str, key: Any = None, *, kid: str = "k1", **changed: Any) -> dict[str, str]:
    """Return the header of a pod on a node."""
    return bearer(signed(claims(node, now=time.time(), **changed), key, kid=kid))


def test_node_bound_reports(start: Callable[..., Daemon], issuer: Issuer, tmp_path: Path) -> None:
    """One node cannot speak for another, alone or in a batch; the 403 says which claim fails; a relay still may."""
    (tmp_path / "relay").write_text(TOKENS["report"])
    daemon = start(*issuer.options, "--token-file", f"report={tmp_path / 'relay'}", "--access-log")
    daemon.said("has 1 keys for report tokens")

    def refused(body: Any, headers: dict[str, str]) -> tuple[int, str]:
        answer = daemon.post(body, headers=headers)
        return answer.status_code, answer.json()["error"]

    own = of_node("n1")
    assert daemon.post(full_report("n1"), headers=own).status_code == 200
    assert daemon.post([report("n1"), report("n1")], headers=own).status_code == 200
    code, said = refused(report("n2"), own)
    assert (code, said.endswith("- at $.node_id")) == (403, True)
    code, said = refused([report("n1"), report("n1"), report("n1"), report("n2")], own)
    assert (code, said.endswith("- at $[3].node_id")) == (403, True)
    assert "kubernetes.io/node/name" in said
    for changed, claim in (
        ({"iss": "x"}, "iss"),
        ({"aud": "x"}, "aud"),
        ({"kubernetes.io": {}}, "kubernetes.io/node/name"),
    ):
        code, said = refused(report("n1"), of_node("n1", **changed))
        assert code == 403
        assert f"claim {claim}" in said
    for bad in (
        of_node("n1", exp=int(time.time()) - 60),
        of_node("n1", rsa_key(2)),
        of_node("n1", kid="k9"),
        bearer("a.b.c"),
        bearer("x" * 9000),
    ):
        assert refused(report("n1"), bad)[0] == 401
    assert daemon.nodes() == ["n1"]
    assert daemon.post([report("n2"), report("n3")], headers=bearer(TOKENS["report"])).status_code == 200
    assert daemon.nodes() == ["n1", "n2", "n3"]
    assert issuer.asked == 1  # the unknown key was nobody's, 30 s had not passed
    assert own["Authorization"].partition(" ")[2] not in daemon.output()


def test_an_issuer_that_is_away(start: Callable[..., Daemon], issuer: Issuer) -> None:
    """A token that cannot be verified yet is 503 with Retry-After, not 401; everything else goes on."""
    issuer.broken = True
    daemon = start(*issuer.options)
    daemon.said(r"no keys for report tokens from https://127\.0\.0\.1.*: it answers 500")
    answer = daemon.post(report("n1"), headers=of_node("n1"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert daemon.post(report("n1")).status_code == 401
    assert daemon.get("/-/ready").status_code == 200


def test_an_issuer_that_is_somebody_else(start: Callable[..., Daemon], issuer: Issuer) -> None:
    """A certificate of another authority is no issuer's, and no keys are taken."""
    issuer.ca.write_bytes(Authority(issuer.ca.parent, "another").pair.pem)
    daemon = start(*issuer.options)
    daemon.said(r"no keys for report tokens from .*certificate")
    assert daemon.post(report("n1"), headers=of_node("n1")).status_code == 503
    assert issuer.asked == 0


def test_rotation_of_keys_in_a_file(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A key that is put into the file is known within a second or two, and one that is taken out no longer."""
    keys = tmp_path / "keys.json"
    keys.write_bytes(key_set(jwk("k1")))
    daemon = start("--oidc.jwks", str(keys), "--oidc.issuer", ISSUER, "--oidc.audience", AUDIENCE)
    first, second = of_node("n1"), of_node("n1", rsa_key(2), kid="k2")

    def codes() -> list[int]:
        return [daemon.post(report("n1"), headers=token).status_code for token in (first, second)]

    assert codes() == [200, 401]
    keys.write_bytes(key_set(jwk("k1"), jwk("k2", rsa_key(2))))
    until(lambda: codes() == [200, 200], "both keys")
    keys.write_bytes(key_set(jwk("k2", rsa_key(2))))
    until(lambda: codes() == [401, 200], "the new key alone")


def test_the_profiler_shows_its_token(guarded: Daemon, tmp_path: Path) -> None:
    """`twistd profiler --token-file`: refused, it says so and goes on; once the file has the right one, it is taken."""
    token = tmp_path / "token"
    token.write_text("not-the-token-0123456789")
    profiler = Server(
        (
            *(TWISTD, "--nodaemon", "--pidfile=", "profiler", "--orchestrator", guarded.url, "--node-id", "profiled"),
            *("--source", "procfs", "--interval", "1", "--token-file", str(token)),
        ),
        tmp_path / "profiler",
    )
    try:
        profiler.said(r"does not take the reports: 401 this is not a token of the role report")
        token.write_text(TOKENS["report"])
        profiler.said(r"takes the reports again|takes the reports of profiled")
        assert guarded.get("/nodes/profiled", headers=bearer(TOKENS["query"])).status_code == 200
        assert TOKENS["report"] not in profiler.output()
    finally:
        profiler.close()


def test_all_in_one_with_tokens(tmp_path: Path) -> None:
    """Its Prometheus scrapes and its profiler reports, each with the token of its role, and no other does."""
    options = write_tokens(tmp_path / "tokens")
    daemon = Daemon(tmp_path / "daemon", "--all-in-one", *options)
    try:
        daemon.started()
        assert daemon.get("/metrics").status_code == 401

        def found() -> list[dict[str, Any]]:
            answer = daemon.get("/query", {"q": "mem_bytes_allocated"}, headers=bearer(TOKENS["query"]))
            return result(answer) if answer.status_code == 200 else []

        until(found, "a value that was reported and scraped", 60)
        assert daemon.get("/metrics", headers=bearer(TOKENS["scrape"])).status_code == 200
        daemon.stop()
        assert not any(secret in daemon.output() for secret in TOKENS.values())
    finally:
        daemon.close()


def test_token_examples_of_the_readme(tmp_path: Path) -> None:
    """What README says makes token files makes files that are taken."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    made = re.search(r"^    (\(umask 077;.*\))$", text, re.MULTILINE)
    assert made
    (tmp_path / "daemon").mkdir()
    shell = Server(("sh", "-c", made[1]), tmp_path / "daemon")
    assert shell.wait() == 0, shell.output()
    named = re.search(r"^    twistd -n orchestrator (--token-file .*)$", text, re.MULTILINE)
    assert named
    daemon = Daemon(tmp_path / "daemon", *named[1].split())
    try:
        daemon.started()
        assert ((tmp_path / "daemon" / "query").stat().st_mode & 0o777) == 0o600
        token = (tmp_path / "daemon" / "query").read_text().strip()
        assert daemon.get("/nodes", headers=bearer(token)).json() == json.loads('{"nodes": []}')
        daemon.stop()
    finally:
        daemon.close()
        shell.close()

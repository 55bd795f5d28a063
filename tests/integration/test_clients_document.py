"""The programs of docs/CLIENTS.md, taken from the page, built and run: they do what the page says."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority
from tests.integration.daemon import FAMILIES, LOOPBACK, PATIENCE, Daemon, Server, environment, report, run, until
from tests.integration.document import blocks, document
from tests.integration.stores import Prometheus, result
from tests.integration.upstream import Exchange, FakeUpstream, refused_by_orchestrator

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

LANGUAGES = ("sh", "py", "go", "c")
#: Those whose program goes on reporting; the one in shell reports once.
LOOPS = ("py", "go", "c")
STORED = b'{"status": "Metrics updated", "accepted": 1, "superseded": 0}'
#: What the programs measure, in the order of the families.
MEASURED = dict(zip(FAMILIES, (1684023712, 52103, 81230, 1204, 40210, 22031, 9120, 5210.5), strict=True))
#: Seconds for a compiler, on a machine that others use too.
COMPILE_PATIENCE = 120.0

Answer = tuple[str, bytes, list[str]]


class Programs:
    """The page's programs, built in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        text = document("CLIENTS.md")
        self.names: list[str] = []
        for language in ("sh", "python", "go", "c"):
            for block in blocks(text, language):
                named = re.search(r"\b((?:report|ask)\.(?:sh|py|go|c)) URL ", block)
                assert named, block[:100]
                self.names.append(named[1])
                (folder / named[1]).write_text(block)
        for purpose in ("report", "ask"):
            self._build(purpose)

    def _build(self, purpose: str) -> None:
        """Compile what is to be compiled, from nothing but what is on this machine."""
        offline = {
            "GOCACHE": str(self._folder / "go-cache"),
            "GOFLAGS": "-mod=mod",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
        }
        warnings = ("-O2", "-Wall", "-Wextra", "-Werror")
        for command in (
            ("sh", "-n", f"{purpose}.sh"),
            ("gcc", *warnings, "-o", f"{purpose}-c", f"{purpose}.c", "-lcurl", "-ljansson", "-lm"),
            ("gofmt", "-d", f"{purpose}.go"),
            ("go", "vet", f"{purpose}.go"),
            ("go", "build", "-o", f"{purpose}-go", f"{purpose}.go"),
        ):
            env = environment(self._folder, offline)
            built = run(*command, cwd=self._folder, env=env, seconds=COMPILE_PATIENCE)
            assert (built.returncode, built.stdout, built.stderr) == (0, "", ""), command

    def hurry(self) -> None:
        """Build `hurried`: the programs that ask, with a deadline of 50 ms."""
        for language, written, meant in (
            ("py", "seconds=3.0", "seconds=0.05"),
            ("go", "3*time.Second", "50*time.Millisecond"),
            ("c", "query, 3)", "query, 0.05)"),
            ("sh", "", ""),
        ):
            text = (self._folder / f"ask.{language}").read_text()
            assert written in text
            (self._folder / f"hurried.{language}").write_text(text.replace(written, meant, 1))
        self._build("hurried")

    def command(self, purpose: str, language: str, *arguments: str) -> list[str]:
        """Return how to run a program."""
        if language in ("go", "c"):
            return [str(self._folder / f"{purpose}-{language}"), *arguments]
        interpreter = sys.executable if language == "py" else "sh"
        return [interpreter, str(self._folder / f"{purpose}.{language}"), *arguments]

    def ask(self, language: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Ask, to the end."""
        return run(*self.command("ask", language, *arguments), env=environment(self._folder, env))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Give the programs."""
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def begin(programs: Programs, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Give a function that starts a program; each is ended with the test."""
    with ExitStack() as stack:
        started: list[Server] = []

        def begin(purpose: str, language: str, *arguments: str, **env: str) -> Server:
            command = programs.command(purpose, language, *arguments)
            server = Server(command, tmp_path / f"program-{len(started)}", env)
            started.append(server)
            stack.callback(server.close)
            return server

        yield begin


class Script:
    """A server that answers requests in this order, and the last of the answers for ever; None breaks off."""

    def __init__(self, *answers: Answer | None) -> None:
        self._answers = list(answers)
        #: When each request was there, in seconds of the monotonic clock.
        self.times: list[float] = []
        self.server = FakeUpstream(self._answer, refuses=refused_by_orchestrator)

    def _answer(self, exchange: Exchange) -> None:
        self.times.append(time.monotonic())
        answer = self._answers[min(len(self.times), len(self._answers)) - 1]
        if answer is not None:
            status, body, headers = answer
            exchange.reply(status, "application/json", body, *headers)

    def buckets(self) -> list[float]:
        """Return the timestamps of the reports that have come, in their order."""
        return [json.loads(asked.body)["timestamp"] for asked in list(self.server.asked)]


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    """Give a function that starts a server with a script."""
    with ExitStack() as stack:

        def start(*answers: Answer | None) -> Script:
            script = Script(*answers)
            stack.enter_context(script.server)
            return script

        yield start


def refusal(status: str, text: str = "no", *headers: str) -> Answer:
    """Return an answer that is an error."""
    return status, json.dumps({"status": "error", "errorType": "any", "error": text}).encode(), list(headers)


def vector(values: dict[str, str], **more: Any) -> Answer:
    """Return an answer of an instant query."""
    series = [
        {"metric": {"node_id": node} if node else {}, "value": [1795424400.0, value]} for node, value in values.items()
    ]
    body = {"status": "success", "data": {"resultType": "vector", "result": series}, **more}
    return "200 OK", json.dumps(body).encode(), []


def printed(asked: subprocess.CompletedProcess[str]) -> dict[str, float | None]:
    """Return what a program that asks has printed; None: absent."""
    assert asked.returncode == 0, asked.stderr
    pairs = [line.split() for line in asked.stdout.splitlines()]
    return {node: None if value == "absent" else float(value) for node, value in pairs}


def test_no_program_is_left_out(programs: Programs) -> None:
    """Both programs, in each of the languages, and no code beside them that nobody runs."""
    assert sorted(programs.names) == sorted(f"{purpose}.{end}" for purpose in ("report", "ask") for end in LANGUAGES)
    fences = re.findall(r"^```(\w+)$", document("CLIENTS.md"), re.MULTILINE)
    assert len(fences) == len(programs.names) + 1
    (example,) = blocks(document("CLIENTS.md"), "json")
    assert json.loads(example)["data"]["resultType"] == "vector"


class Guarded:
    """A daemon with tokens and TLS, and a Prometheus behind it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.authority = Authority(folder)
        self.authority.issue("server", "127.0.0.1")
        self.folder = folder
        for role in ("report", "query"):
            self.give(role, f"{role}-token-000000001")
        prometheus = Prometheus(folder / "prometheus")
        stack.callback(prometheus.close)
        self.daemon = Daemon(
            folder / "daemon",
            *("--prometheus", prometheus.url),
            *("--listen", f"tls:{LOOPBACK}"),
            *("--tls.cert_file", str(self.authority.certificate("server"))),
            *("--tls.key_file", str(self.authority.key("server"))),
            *("--token-file", f"report={folder / 'report'}", "--token-file", f"query={folder / 'query'}"),
        )
        stack.callback(self.daemon.close)
        self.daemon.started()
        self.url = f"https://127.0.0.1:{self.daemon.said(r'127.0.0.1:([0-9]+) .TLS.')[1]}"
        prometheus.start(self.daemon.port)

    def give(self, role: str, token: str) -> None:
        """Replace a role's token."""
        (self.folder / role).write_text(token)

    def env(self, role: str) -> dict[str, str]:
        """Return what the programs are told by the environment."""
        return {"SSL_CERT_FILE": str(self.authority.path), "ORCHESTRATOR_TOKEN_FILE": str(self.folder / role)}

    def get(self, path: str, **params: str) -> Any:
        """Get a path with the token of the role `query`."""
        token = (self.folder / "query").read_text()
        return self.daemon.get(path, params, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Give it; it must end cleanly."""
    with ExitStack() as stack:
        guarded = Guarded(tmp_path_factory.mktemp("guarded"), stack)
        yield guarded
        guarded.daemon.stop()


def test_what_is_reported_is_what_is_answered(
    programs: Programs, guarded: Guarded, begin: Callable[..., Server]
) -> None:
    """All eight families, over TLS, while tokens are rotated; then asked for through Prometheus, one more is absent."""
    nodes = [f"node.{language}" for language in LANGUAGES]
    for language, node in zip(LANGUAGES, nodes, strict=True):
        server = begin("report", language, guarded.url, node, "1", **guarded.env("report"))
        if language == "sh":
            assert server.wait() == 0, server.output()
    until(lambda: len(guarded.get("/nodes").json()["nodes"]) == len(nodes), "a report of each")
    assert [guarded.get(f"/nodes/{node}").json()["metrics"] for node in nodes] == [MEASURED] * len(nodes)

    guarded.give("report", "report-token-000000002")
    guarded.give("query", "query-token-000000002")
    changed = time.time()
    until(lambda: guarded.get("/nodes").status_code == 200, "the new token of the role query")

    def reported_since(language: str) -> bool:
        since: float = guarded.get(f"/nodes/node.{language}").json()["last_report"]
        return since > changed + 2  # the old token is not taken any more

    until(lambda: all(reported_since(language) for language in LOOPS), "reports with the new token")

    def scraped() -> bool:
        return len(result(guarded.get("/query", q="page_faults"))) == len(nodes)

    until(scraped, "a scrape of all nodes")
    # As the page writes it.
    fresh = "and on(node_id) (time() - orchestrator_node_last_report_timestamp_seconds < 30)"
    assert fresh in document("CLIENTS.md")
    until(lambda: len(result(guarded.get("/query", q=f"page_faults {fresh}"))) >= len(LOOPS), "those that are fresh")
    for language in LANGUAGES:
        asked = programs.ask(language, guarded.url, "fs_write_size_kb", *nodes, "node-9", **guarded.env("query"))
        assert printed(asked) == {**dict.fromkeys(nodes, 5210.5), "node-9": None}, language
        asked = programs.ask(language, guarded.url, "page_faults", nodes[0], **guarded.env("report"))
        assert asked.returncode != 0
        assert "403" in asked.stderr


def test_a_refused_bucket_is_not_sent_again(
    begin: Callable[..., Server], script: Callable[..., Script], daemon: Daemon
) -> None:
    """400: the program says why, and goes on with the next bucket, if it goes on."""
    refused = {language: begin("report", language, daemon.url, "no node", "1") for language in LANGUAGES}
    for server in refused.values():
        server.said(r"not stored: 400 .*\$\.node_id")
    assert refused["sh"].wait() == 1
    for server in refused.values():
        server.close()
    scripts = {language: script(refusal("400 Bad Request", "no - at $.page_faults")) for language in LANGUAGES}
    for language, each in scripts.items():
        begin("report", language, each.server.url, "n1", "1")
    for language in LOOPS:
        until(lambda each=scripts[language]: len(each.times) >= 3, f"three buckets of {language}")  # type: ignore[misc]
        sent = scripts[language].buckets()
        assert len(set(sent)) == len(sent), language
    assert len(scripts["sh"].times) == 1


def test_what_may_pass_is_tried_again(begin: Callable[..., Server], script: Callable[..., Script]) -> None:
    """A connection that breaks off, then a 503: the same bucket comes again, not before Retry-After has passed."""
    scripts = {}
    for language in LANGUAGES:
        busy = refusal("503 Service Unavailable", "stopping", "Retry-After: 1")
        scripts[language] = script(None, busy, ("200 OK", STORED, []))
        begin("report", language, scripts[language].server.url, "n1", "6")
    for language, each in scripts.items():
        until(lambda each=each: len(each.times) >= 3, f"three attempts of {language}")  # type: ignore[misc]
        assert len(set(each.buckets()[:3])) == 1, language
        assert each.times[1] - each.times[0] > 0.4, language
        assert each.times[2] - each.times[1] > 0.9, language


def test_old_buckets_are_not_piled_up(begin: Callable[..., Server], script: Callable[..., Script]) -> None:
    """While nothing is taken, each request has the newest bucket there is; afterwards no older one follows."""
    scripts = {language: script(*[None] * 5, ("200 OK", STORED, [])) for language in LOOPS}
    for language, each in scripts.items():
        begin("report", language, each.server.url, "n1", "1")
    for language, each in scripts.items():
        until(lambda each=each: len(each.times) >= 8, f"eight attempts of {language}")  # type: ignore[misc]
        sent = each.buckets()
        assert sent == sorted(sent), language
        assert len(set(sent)) >= 4, language


def test_how_an_answer_is_read(programs: Programs, script: Callable[..., Script], start: Callable[..., Daemon]) -> None:
    """Through the daemon: infinities are numbers, NaN is no value, warnings are shown, an empty answer is one."""
    values = {"n1": "NaN", "n2": "+Inf", "n3": "-Inf", "n4": "1.684023712e+09", "n5": "0", "": "1"}
    upstream = script(vector(values, warnings=["less than you think"]))
    daemon = start("--prometheus", upstream.server.url)
    for language in LANGUAGES:
        asked = programs.ask(language, daemon.url, "page_faults", "n1", "n2", "n3", "n4", "n5", "n.6")
        assert printed(asked) == {
            "n1": None,
            "n2": float("inf"),
            "n3": float("-inf"),
            "n4": 1684023712.0,
            "n5": 0.0,
            "n.6": None,
        }, language
        assert "less than you think" in asked.stderr, language
    # A dot in an id is no other character, for the selector is a regular expression.
    asked_for = 'page_faults{node_id=~"n1|n2|n3|n4|n5|n[.]6"}'
    assert {dict(asked.params)["query"] for asked in upstream.server.asked} == {asked_for}
    nobody = script(vector({}))
    for language in LANGUAGES:
        assert printed(programs.ask(language, nobody.server.url, "page_faults", "n1")) == {"n1": None}, language


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "422 Unprocessable Entity"])
def test_a_refused_query_is_not_asked_again(
    programs: Programs, script: Callable[..., Script], language: str, status: str
) -> None:
    """One request, and the program tells what the answer says."""
    refusing = script(refusal(status, "parse error"))
    asked = programs.ask(language, refusing.server.url, "page_faults", "n1")
    assert asked.returncode != 0
    assert "parse error" in asked.stderr
    assert not asked.stdout
    assert len(refusing.times) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_query_is_asked_again_within_its_deadline(
    programs: Programs, script: Callable[..., Script], language: str
) -> None:
    """503 with Retry-After: again after that. A connection that breaks off: again. Retry-After too long: not again."""
    busy = script(refusal("503 Service Unavailable", "busy", "Retry-After: 1"), vector({"n1": "5"}))
    assert printed(programs.ask(language, busy.server.url, "page_faults", "n1")) == {"n1": 5.0}
    assert busy.times[1] - busy.times[0] > 0.9
    broken = script(None, vector({"n1": "5"}))
    assert printed(programs.ask(language, broken.server.url, "page_faults", "n1")) == {"n1": 5.0}
    stopped = script(refusal("503 Service Unavailable", "busy", "Retry-After: 60"))
    begun = time.monotonic()
    assert programs.ask(language, stopped.server.url, "page_faults", "n1").returncode != 0
    assert time.monotonic() - begun < PATIENCE
    assert len(stopped.times) == 1


def test_an_upstream_that_is_away_is_no_idle_node(begin: Callable[..., Server], daemon: Daemon) -> None:
    """502, or 504 at the end: the program fails, rather than to call the nodes absent; also where nobody listens."""
    assert daemon.post(report("n1", page_faults=1)).status_code == 200
    for told, url in (("no answer: 50[24]", daemon.url), ("", "http://127.0.0.1:9")):
        asking = [begin("ask", language, url, "page_faults", "n1") for language in LANGUAGES]
        for server in asking:
            assert server.wait() != 0
            assert re.search(told, server.output())
            assert "absent" not in server.output()


def test_a_short_deadline_is_asked_for_as_it_is(
    programs: Programs, begin: Callable[..., Server], script: Callable[..., Script]
) -> None:
    """50 ms: the `timeout` that is sent is above 0, which would be refused, and not above the deadline."""
    programs.hurry()
    for language in LOOPS:
        answering = script(vector({"n1": "5"}))

        def reached(language: str = language, answering: Script = answering) -> bool:
            # On a busy machine the deadline may be over before there is a connection.
            begin("hurried", language, answering.server.url, "page_faults", "n1").wait()
            return bool(answering.server.asked)

        until(reached, f"a request of {language}")
        for asked in answering.server.asked:
            assert 0 < float(dict(asked.params)["timeout"]) <= 0.05, language


def test_the_deadline_is_one_for_everything(begin: Callable[..., Server]) -> None:
    """An answer that comes a byte at a time for ever: the program gives up, and the connection is closed."""

    def drip(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not exchange.closing.wait(0.05):
            try:
                exchange.send(b"x")
            except OSError:
                left.append(exchange.asked.path)
                return

    left: list[str] = []
    with FakeUpstream(drip, refuses=refused_by_orchestrator) as upstream:
        asking = [begin("ask", language, upstream.url, "page_faults", "n1") for language in LANGUAGES]
        for server in asking:
            assert server.wait() not in {0, -signal.SIGKILL}
            assert "absent" not in server.output()
        assert "no answer: not within the deadline" in asking[LANGUAGES.index("py")].output()
        until(lambda: len(left) == len(upstream.asked), "an end of each connection")
        assert len(left) >= len(LANGUAGES)

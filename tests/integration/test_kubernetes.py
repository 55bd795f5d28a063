"""Report tokens with a real Kubernetes API server: its keys, and its tokens."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from orchestratord.security.jwks import ACCEPT
from tests.integration.daemon import ROOT, report, until
from tests.integration.kubernetes import ControlPlane
from tests.tokens import AUDIENCE, ISSUER, claims, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.daemon import Daemon

pytestmark = pytest.mark.integration

JWKS = "/openid/v1/jwks"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give a control plane with the service accounts of the orchestrator and the profiler, and a pod of the latter."""
    with ControlPlane(tmp_path_factory.mktemp("kubernetes")) as cluster:
        until(lambda: cluster.request("GET", "/api/v1/namespaces/default").status_code == 200, "the default namespace")
        for name in ("orchestrator", "orchestrator-profiler"):
            cluster.create(ACCOUNTS, "ServiceAccount", metadata={"name": name})
        cluster.create("/api/v1/nodes", "Node", metadata={"name": "n1"})
        cluster.create(
            "/api/v1/namespaces/default/pods",
            "Pod",
            metadata={"name": "profiler-x7k2p"},
            spec={
                "serviceAccountName": "orchestrator-profiler",
                "nodeName": "n1",
                "containers": [{"name": "profiler", "image": "orchestrator-profiler"}],
            },
        )
        yield cluster


def account_token(cluster: ControlPlane, account: str, *, pod: str | None = None) -> str:
    """Return a token of a service account for the orchestrator, or for the API itself, by the TokenRequest API."""
    bound = {} if pod is None else {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}
    audiences = [ISSUER] if account == "orchestrator" else [AUDIENCE]
    made = cluster.create(
        f"{ACCOUNTS}/{account}/token",
        "TokenRequest",
        "authentication.k8s.io/v1",
        spec={"audiences": audiences, "expirationSeconds": 3600, **bound},
    )
    token: str = made["status"]["token"]
    return token


@pytest.fixture
def daemon(cluster: ControlPlane, start: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """Give a daemon that fetches the keys as its own service account, as in the cluster."""
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(account_token(cluster, "orchestrator"))
    ca.write_bytes(cluster.ca.read_bytes())
    daemon = start(
        *("--oidc.jwks", cluster.url + JWKS, "--oidc.ca_file", str(ca)),
        *("--oidc.credentials_file", str(token)),
        *("--oidc.issuer", ISSUER, "--oidc.audience", AUDIENCE),
    )
    daemon.said(r"has 1 keys for report tokens")
    return daemon


def test_what_a_real_api_server_answers(cluster: ControlPlane) -> None:
    """406 to who takes JSON alone, which the fakes in other tests do as well; 200 to what we ask for; 401 and 403."""
    statuses = {
        accept: cluster.request("GET", JWKS, headers={"Accept": accept}).status_code
        for accept in ("application/json", "text/html", "application/jwk-set+json", "*/*", ACCEPT.decode())
    }
    assert statuses == {
        "application/json": 406,
        "text/html": 406,
        "application/jwk-set+json": 200,
        "*/*": 200,
        ACCEPT.decode(): 200,
    }
    answer = cluster.request("GET", JWKS, headers={"Accept": ACCEPT.decode()})
    assert answer.headers["Content-Type"] == "application/jwk-set+json"
    assert cluster.request("GET", JWKS, token="nobodys").status_code == 401
    assert cluster.request("GET", JWKS, token=None).status_code == 403
    assert cluster.request("POST", JWKS).status_code == 405


def test_a_token_of_a_node_lets_its_reports_in(cluster: ControlPlane, daemon: Daemon) -> None:
    """Of its own node, and of no other. A server before 1.30 does not name the node: we sign, with the server's key."""
    kid = cluster.request("GET", JWKS).json()["keys"][0]["kid"]
    headers = {"Authorization": f"Bearer {signed(claims('n1', now=time.time()), kid=kid)}"}
    assert daemon.post(report("n1", page_faults=1), headers=headers).json()["status"] == "Metrics updated"
    assert daemon.nodes() == ["n1"]
    answer = daemon.post(report("n2"), headers=headers)
    assert answer.status_code == 403
    assert daemon.nodes() == ["n1"]


def test_a_token_that_the_api_server_has_made_verifies(cluster: ControlPlane, daemon: Daemon) -> None:
    """Its key, issuer, audience and times are right; what is missing in this old version is named: the node."""
    for pod in (None, "profiler-x7k2p"):
        token = account_token(cluster, "orchestrator-profiler", pod=pod)
        answer = daemon.post(report("n1"), headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["error"]) == (
            403,
            "the token has no claim kubernetes.io/node/name: it is not bound to a node",
        )
    other = account_token(cluster, "orchestrator")  # for the API server's own audience
    answer = daemon.post(report("n1"), headers={"Authorization": f"Bearer {other}"})
    assert (answer.status_code, answer.json()["error"]) == (403, "the token's claim aud does not have 'orchestratord'")


def test_the_build_says_what_it_needs(tmp_path: Path) -> None:
    """In one line, where it cannot be had."""
    for name in ("bash", "dirname", "flock", "mkdir"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    missing = subprocess.run(
        [ROOT / "tests/kubernetes/build"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "tests/kubernetes/build: needs Debian: there is no apt-get\n"

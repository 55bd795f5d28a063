"""A real kube-apiserver before a real etcd, on loopback; `tests/kubernetes/build` builds it from Debian's sources."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.certificates import Authority
from tests.integration.daemon import PATIENCE, ROOT, Server, free_port, until
from tests.tokens import ISSUER, rsa_key

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: Who may do everything, by the server's own file of tokens.
ADMIN = "the-administrators-token"


def programs() -> Path:
    """Return the folder of kube-apiserver and kube-scheduler; builds them where they are not there."""
    built = subprocess.run([ROOT / "tests/kubernetes/build"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.splitlines()[-1])


class ControlPlane:
    """etcd and kube-apiserver in `folder`. The key that signs service accounts' tokens is `tests.tokens.rsa_key()`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        authority = Authority(folder)
        authority.issue("server", "127.0.0.1", "::1", "localhost")
        #: The authority of the server's certificate.
        self.ca = authority.path
        private, public, tokens = (folder / name for name in ("accounts.key", "accounts.pub", "tokens.csv"))
        private.write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        tokens.write_text(f"{ADMIN},admin,1,system:masters\n")
        etcd = f"http://127.0.0.1:{free_port()}"
        peers = f"http://127.0.0.1:{free_port()}"
        self._commands = {
            "etcd": (
                "etcd",
                *(f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
                *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
                *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
                f"--initial-cluster=default={peers}",
            ),
            "kube-apiserver": (
                str(programs() / "kube-apiserver"),
                *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.port}"),
                *(f"--cert-dir={folder / 'run'}", f"--token-auth-file={tokens}"),
                f"--tls-cert-file={authority.certificate('server')}",
                f"--tls-private-key-file={authority.key('server')}",
                *(f"--service-account-issuer={ISSUER}", f"--service-account-jwks-uri={self.url}/openid/v1/jwks"),
                *(f"--service-account-signing-key-file={private}", f"--service-account-key-file={public}"),
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                "--authorization-mode=RBAC",
            ),
        }
        self._folder = folder
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        try:
            for name, command in self._commands.items():
                self._servers.append(Server(command, self._folder / name))
            until(self._ready, "a kube-apiserver that is ready")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both."""
        for server in reversed(self._servers):
            server.close()

    def request(self, method: str, path: str, token: str | None = ADMIN, **options: Any) -> requests.Response:
        """Make a request; with no token as nobody."""
        headers = options.pop("headers", {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = self.url + path
        return requests.request(method, url, headers=headers, verify=str(self.ca), timeout=PATIENCE, **options)

    def create(self, path: str, kind: str, api_version: str = "v1", **fields: Any) -> Any:
        """Create an object and return it."""
        answer = self.request("POST", path, json={"apiVersion": api_version, "kind": kind, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def _ready(self) -> bool:
        for server in self._servers:
            assert server.process.poll() is None, server.output()
        try:
            return self.request("GET", "/readyz").status_code == 200
        except requests.ConnectionError:
            return False

"""TLS from files: our side against Python's own `ssl`, in memory."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from orchestratord.runtime.file_reload import LOOK_SECONDS, FilesError
from orchestratord.security.tls import CertificateRefused, ClientOptions, ClientTls, ServerFiles, ServerTls
from tests.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from twisted.python.failure import Failure

OPTIONS = ClientOptions("--ca", "--certificate", "--key")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that has signed `server`, for localhost and 127.0.0.1, and `client`."""
    authority = Authority(tmp_path)
    authority.issue("server", "localhost", "127.0.0.1")
    authority.issue("client")
    return authority


class Protocol:
    """Stands for Twisted's TLS protocol: remembers why a certificate was refused."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def failVerification(self, reason: Failure) -> None:
        """Remember."""
        assert reason.check(CertificateRefused)
        self.refused.append(str(reason.value))


def shake(ours: SSL.Connection, context: ssl.SSLContext, *, server_name: str | None = None) -> ssl.SSLObject:
    """Bring both sides through the handshake and a byte of ours; raise what either raises."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    serves = context.protocol == ssl.PROTOCOL_TLS_SERVER
    theirs = context.wrap_bio(incoming, outgoing, server_side=serves, server_hostname=server_name)
    (ours.set_connect_state if serves else ours.set_accept_state)()
    done: set[str] = set()
    for _ in range(10):
        for name, step in (("ours", ours.do_handshake), ("theirs", theirs.do_handshake)):
            try:
                if name not in done:
                    step()
                    done.add(name)
            except (SSL.WantReadError, ssl.SSLWantReadError):
                pass
            finally:
                move(ours, incoming, outgoing)
    assert done == {"ours", "theirs"}
    ours.send(b"x")
    move(ours, incoming, outgoing)
    assert theirs.read(1) == b"x"
    return theirs


def move(ours: SSL.Connection, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    """Carry what each side has written to the other."""
    if data := outgoing.read():
        ours.bio_write(data)
    with contextlib.suppress(SSL.WantReadError):
        incoming.write(ours.bio_read(65536))


def server(authority: Authority, clock: Clock | None = None, *, client_ca: bool = False, **more: Any) -> ServerTls:
    """Return our server side."""
    files = ServerFiles(authority.certificate("server"), authority.key("server"), authority.path if client_ca else None)
    return ServerTls((clock or Clock()).seconds, files, **more)


def connect(ours: ServerTls, context: ssl.SSLContext) -> ssl.SSLObject:
    """Connect to our server side."""
    protocol: Any = None
    return shake(ours.serverConnectionForTLS(protocol), context, server_name="localhost")


class TestServer:
    """ServerTls: what listeners use."""

    def test_clients_verify_it(self, authority: Authority) -> None:
        """By its authority and name; TLS 1.3, and HTTP/1.1 by ALPN where it is asked for."""
        context = authority.client_context()
        assert connect(server(authority), context).version() == "TLSv1.3"
        context.set_alpn_protocols(["h2", "http/1.1"])
        assert connect(server(authority), context).selected_alpn_protocol() == "http/1.1"
        context.set_alpn_protocols(["h2"])
        assert connect(server(authority), context).selected_alpn_protocol() is None

    def test_tls_12_and_newer(self, authority: Authority) -> None:
        """With forward secrecy and authenticated encryption; nothing older, nothing weaker."""
        context = authority.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        cipher = connect(server(authority), context).cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")
        context.set_ciphers("ECDHE+AES128+SHA256:AES128-SHA:AES256-GCM-SHA384")
        with pytest.raises(SSL.Error, match="no shared cipher"):
            connect(server(authority), context)
        context = authority.client_context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="deprecated"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(SSL.Error, match="unsupported protocol"):
            connect(server(authority), context)

    def test_the_chain_of_the_file_is_sent(self, authority: Authority) -> None:
        """What follows the certificate in its file, and nothing of the authorities that we trust."""

        def chain() -> int:
            context, nobody = SSL.Context(SSL.TLS_CLIENT_METHOD), None
            context.use_certificate(client.certificate)
            context.use_privatekey(client.key)
            ours, theirs = SSL.Connection(context, None), tls.serverConnectionForTLS(nobody)  # type: ignore[arg-type]
            ours.set_connect_state()
            theirs.set_accept_state()
            pump(ours, theirs)
            return len(ours.get_peer_cert_chain() or ())

        client = authority.issue("client")
        clock = Clock()
        tls = server(authority, clock, client_ca=True)
        assert chain() == 1
        certificate = authority.certificate("server")
        certificate.write_bytes(certificate.read_bytes() + authority.path.read_bytes())
        clock.advance(LOOK_SECONDS)
        assert chain() == 2

    def test_new_connections_get_the_new_certificate(self, authority: Authority) -> None:
        """Without a restart; its end is told each time."""
        clock = Clock()
        ends: list[float] = []
        tls = server(authority, clock, expires=ends.append)
        before = connect(tls, authority.client_context())
        new = authority.issue("server", "localhost", days=5)
        clock.advance(LOOK_SECONDS)
        after = connect(tls, authority.client_context())
        assert before.getpeercert() != after.getpeercert()
        assert ends[-1] == new.not_after
        assert len(ends) == 2

    def test_a_pair_that_does_not_match_is_not_used(self, authority: Authority) -> None:
        """Half of a renewal is there: the last good pair serves on, and the log says so once."""
        clock = Clock()
        tls = server(authority, clock)
        old_key = authority.key("server").read_bytes()
        new = authority.issue("server", "localhost", days=5)
        authority.key("server").write_bytes(old_key)
        with capturedLogs() as logs:
            for _ in range(3):
                clock.advance(LOOK_SECONDS)
                connect(tls, authority.client_context())
        assert [event["error"] for event in logs] == [
            f"tls.key_file: '{authority.key('server')}' is not the key of tls.cert_file's first certificate"
        ]
        authority.key("server").write_bytes(new.key_pem)
        clock.advance(LOOK_SECONDS)
        serial = connect(tls, authority.client_context()).getpeercert()
        assert serial is not None
        assert int(str(serial["serialNumber"]), 16) == new.certificate.serial_number

    def test_client_certificates(self, authority: Authority, tmp_path: Path) -> None:
        """Needed as soon as there is an authority for them; one of another authority is refused."""
        tls = server(authority, client_ca=True)
        connect(tls, authority.client_context("client"))
        with pytest.raises(SSL.Error, match="peer did not return a certificate"):
            connect(tls, authority.client_context())
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other")
        other.issue("client")
        context = authority.client_context()
        context.load_cert_chain(other.certificate("client"), other.key("client"))
        with pytest.raises(SSL.Error, match="certificate verify failed"):
            connect(tls, context)

    @pytest.mark.parametrize(
        ("option", "content", "said"),
        [
            ("certificate", b"", "holds no certificate in PEM that can be read"),
            ("certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
            ("key", b"nonsense", "holds no private key in PEM that can be read"),
            ("client-ca", b"nonsense", "holds no certificate in PEM that can be read"),
        ],
    )
    def test_files_that_are_none(self, authority: Authority, option: str, content: bytes, said: str) -> None:
        """One line with option and file."""
        named = {"certificate": "tls.cert_file", "key": "tls.key_file", "client-ca": "tls.client_ca_file"}[option]
        path = {
            "certificate": authority.certificate("server"),
            "key": authority.key("server"),
            "client-ca": authority.path,
        }[option]
        path.write_bytes(content)
        with pytest.raises(FilesError) as raised:
            server(authority, client_ca=True)
        assert str(raised.value).startswith(f"{named}: '{path}' {said}")

    def test_keys_that_are_of_no_use(self, authority: Authority) -> None:
        """An encrypted one, and one that is another's."""
        key = rsa.generate_private_key(65537, 2048)
        path = authority.key("server")
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
        with pytest.raises(FilesError, match="tls.key_file: .* is encrypted"):
            server(authority)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(FilesError, match="tls.key_file: .* is not the key of tls.cert_file's first certificate"):
            server(authority)


def pump(ours: SSL.Connection, theirs: SSL.Connection) -> None:
    """Bring two of OpenSSL's own through a handshake."""
    for _ in range(10):
        for here, there in ((ours, theirs), (theirs, ours)):
            with contextlib.suppress(SSL.WantReadError):
                here.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(65536))


class TestClient:
    """ClientTls: what we reach https servers with."""

    def connect(
        self, authority: Authority, name: str = "localhost", *, client_ca: bool = False, **files: Any
    ) -> ssl.SSLObject:
        """Connect to a server of Python's that has the authority's `server` certificate."""
        context = authority.server_context("server", client_certificates=client_ca)
        if client_ca:
            context.maximum_version = ssl.TLSVersion.TLSv1_2  # the refusal comes with the handshake, not after it
        policy = ClientTls(Clock().seconds, OPTIONS, **files)
        protocol: Any = Protocol()
        self.protocol = protocol
        return shake(policy.creatorForNetloc(name.encode(), 443).clientConnectionForTLS(protocol), context)

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
    def test_a_server_of_the_authority_and_the_name(self, authority: Authority, name: str) -> None:
        """Is trusted, by name and by address."""
        assert self.connect(authority, name, ca=authority.path).version() == "TLSv1.3"

    @pytest.mark.parametrize("name", ["example.org", "127.0.0.2", "xlocalhost", "localhost.example.org"])
    def test_another_name_is_refused(self, authority: Authority, name: str) -> None:
        """In words."""
        with pytest.raises(SSL.Error):
            self.connect(authority, name, ca=authority.path)
        assert self.protocol.refused == [f"certificate verify failed: it is not for {name}"]

    def test_another_authority_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        """A private one when only the system's are trusted; the other way round too."""
        with pytest.raises(SSL.Error):
            self.connect(authority)
        assert self.protocol.refused == ["certificate verify failed: unable to get local issuer certificate"]
        (tmp_path / "other").mkdir()
        with pytest.raises(SSL.Error):
            self.connect(authority, ca=Authority(tmp_path / "other").path)
        assert self.protocol.refused == ["certificate verify failed: unable to get local issuer certificate"]

    def test_one_that_has_expired_is_refused(self, authority: Authority) -> None:
        """In words."""
        authority.issue("server", "localhost", days=-1)
        with pytest.raises(SSL.Error):
            self.connect(authority, ca=authority.path)
        assert self.protocol.refused == ["certificate verify failed: it has expired"]

    def test_one_that_signed_itself_is_refused(self, authority: Authority) -> None:
        """In words."""
        authority.certificate("server").write_bytes(authority.pair.pem)
        authority.key("server").write_bytes(authority.pair.key_pem)
        with pytest.raises(SSL.Error):
            self.connect(authority)
        assert self.protocol.refused == ["certificate verify failed: self-signed certificate"]

    def test_our_certificate_is_presented(self, authority: Authority) -> None:
        """To a server that asks for one."""
        mine: dict[str, Any] = {"certificate": authority.certificate("client"), "key": authority.key("client")}
        theirs = self.connect(authority, client_ca=True, ca=authority.path, **mine)
        assert "client" in str(theirs.getpeercert())
        with pytest.raises((SSL.Error, ssl.SSLError)):
            self.connect(authority, client_ca=True, ca=authority.path)

    def test_files_that_are_none(self, authority: Authority) -> None:
        """One line with option and file, by the names that this client's options have."""
        authority.key("client").write_text("nonsense")
        with pytest.raises(FilesError, match="^--key: '.*client.key' holds no private key"):
            self.connect(authority, certificate=authority.certificate("client"), key=authority.key("client"))
        authority.path.write_text("nonsense")
        with pytest.raises(FilesError, match="^--ca: '.*ca.pem' holds no certificate"):
            self.connect(authority, ca=authority.path)

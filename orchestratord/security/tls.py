"""TLS for listeners and for outbound connections, with certificates and keys from files that are reloaded on change.

Versions are TLS 1.2 and newer. A connection keeps the certificate with which it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from orchestratord.http_client.error_text import readable
from orchestratord.runtime.file_reload import Reloaded, WrongFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from twisted.protocols.tls import TLSMemoryBIOProtocol

#: The prefix of the description of an endpoint that serves TLS.
TLS_PREFIX = "tls:"

#: For TLS 1.2: only ciphers with forward secrecy and authenticated encryption. All of TLS 1.3 have both.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"

#: OpenSSL's SSL_MODE_NO_AUTO_CHAIN, for which pyOpenSSL has no name: only the chain of the file is sent, without
#: certificates from the trusted authorities.
_NO_AUTO_CHAIN = 0x8

#: The texts of OpenSSL's common verification errors, by number.
_VERIFY_ERRORS = {
    7: "its signature is wrong",
    9: "it is not valid yet",
    10: "it has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    24: "invalid CA certificate",
    26: "unsuitable certificate purpose",
}


class CertificateRefused(Exception):
    """The certificate of the other side is not trusted; the text says why."""


class ServerFiles(NamedTuple):
    """The paths of a server's files. With `client_ca`, clients need a certificate that this authority has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """Makes the TLS side of accepted connections. `expires` is called with the Unix time of each certificate's expiry.

    The constructor raises FilesError if the files are wrong.
    """

    def __init__(
        self, seconds: Callable[[], float], files: ServerFiles, expires: Callable[[float], object] = lambda _: None
    ) -> None:
        self._certificate, self._key, self._ca = "tls.cert_file", "tls.key_file", "tls.client_ca_file"
        paths = {self._certificate: files.certificate, self._key: files.key}
        if files.client_ca is not None:
            paths[self._ca] = files.client_ca
        #: The context, and the expiry in Unix seconds. A FileReloader watches it, so that a change needs no client.
        self.context: Reloaded[tuple[SSL.Context, float]] = Reloaded(
            seconds, paths, self._parse, changed=lambda value: expires(value[1])
        )

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the TLS side of a connection that was just accepted, with the present certificate."""
        del protocol
        return SSL.Connection(self.context.value()[0], None)

    def _parse(self, contents: Mapping[str, bytes]) -> tuple[SSL.Context, float]:
        context = _context(SSL.TLS_SERVER_METHOD)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_select_callback(_http11)
        certificate = _identify(context, contents, self._certificate, self._key)
        if self._ca in contents:
            for authority in _trust(context, contents[self._ca], self._ca):
                context.add_client_ca(authority)
            # OpenSSL does not verify clients without a session id context.
            context.set_session_id(b"orchestratord")
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        return context, certificate.not_valid_after_utc.timestamp()


class ClientOptions(NamedTuple):
    """The names of the options for a client's files, for error texts."""

    ca: str
    certificate: str
    key: str


@implementer(IPolicyForHTTPS)
class ClientTls:
    """Makes the TLS side of connections to https servers, and verifies their chain and name.

    `ca` replaces the system's authorities; `certificate` and `key` come together. The constructor raises FilesError if
    the files are wrong.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        options: ClientOptions,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._options = options
        paths = zip(options, (ca, certificate, key), strict=True)
        self._context = Reloaded(seconds, {option: path for option, path in paths if path is not None}, self._parse)

    def creatorForNetloc(self, hostname: bytes, port: int) -> _NamedServer:
        """Return the maker of the TLS side of connections to a server of this name, as IPolicyForHTTPS requires."""
        del port
        return _NamedServer(self._context.value(), hostname.decode("ascii"))

    def _parse(self, contents: Mapping[str, bytes]) -> SSL.Context:
        context = _context(SSL.TLS_CLIENT_METHOD)
        if self._options.ca in contents:
            _trust(context, contents[self._options.ca], self._options.ca)
        else:
            context.set_default_verify_paths()
        if self._options.certificate in contents:
            _identify(context, contents, self._options.certificate, self._options.key)
        return context


@implementer(IOpenSSLClientConnectionCreator)
class _NamedServer:
    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name
        self._is_address = isIPAddress(name) or isIPv6Address(name)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not self._is_address:
            connection.set_tlsext_host_name(self._name.encode("ascii"))

        def verify(_: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
            # OpenSSL would swallow an exception here.
            reason = self._refusal(certificate, number, depth, bool(ok))
            if reason is not None:
                protocol.failVerification(Failure(CertificateRefused(f"certificate verify failed: {reason}")))
            return reason is None

        connection.set_verify(SSL.VERIFY_PEER, verify)
        return connection

    def _refusal(self, certificate: crypto.X509, number: int, depth: int, ok: bool) -> str | None:
        if not ok:
            return _VERIFY_ERRORS.get(number, f"OpenSSL's error {number}")
        if depth:
            return None
        check = verify_certificate_ip_address if self._is_address else verify_certificate_hostname
        try:
            check(certificate.to_cryptography(), self._name)
        except Exception:  # noqa: BLE001 - whatever the error, the name could not be verified
            return f"it is not for {self._name}"
        return None


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
    context.set_cipher_list(_CIPHERS)
    return context


def _http11(connection: SSL.Connection, offered: list[bytes]) -> Any:
    del connection
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _identify(context: SSL.Context, contents: Mapping[str, bytes], certificate: str, key: str) -> x509.Certificate:
    """Put a certificate, its chain and its key into the context; return the certificate."""
    chain = _certificates(contents[certificate], certificate)
    try:
        private: Any = load_pem_private_key(contents[key], None)
    except TypeError:
        raise WrongFile(key, "is encrypted; a daemon has nobody to ask for its password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise WrongFile(key, "holds no private key in PEM that can be read") from None
    if _public(private.public_key()) != _public(chain[0].public_key()):
        raise WrongFile(key, f"is not the key of {certificate}'s first certificate")
    try:
        context.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(private)
    except (SSL.Error, TypeError) as error:  # such as a key that is too short, or only for key exchange
        raise WrongFile(certificate, f"cannot be used: {readable(error)}") from None
    return chain[0]


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _certificates(content: bytes, option: str) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(content))
    except ValueError:
        raise WrongFile(option, "holds no certificate in PEM that can be read") from None


def _trust(context: SSL.Context, content: bytes, option: str) -> tuple[x509.Certificate, ...]:
    authorities = _certificates(content, option)
    store = context.get_cert_store()
    assert store is not None  # noqa: S101 - a context has one
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    return authorities

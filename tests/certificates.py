"""Certificates for tests: an authority, and what it signs, as PEM files."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate's PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key's PEM."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def not_after(self) -> float:
        """When it expires, in Unix seconds."""
        return self.certificate.not_valid_after_utc.timestamp()


class Authority:
    """A self-signed authority in `folder`, where it puts what it signs: `ca.pem`, `NAME.pem`, `NAME.key`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Authority {folder.name} {name}")])
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, self._name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - DAY).not_valid_after(now + 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pair = Pair(builder.sign(key, SHA256()), key)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.pair.pem)

    def issue(self, name: str, *names: str, days: float = 10) -> Pair:
        """Write a certificate for these host names and addresses, valid for so many days, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - 20 * DAY).not_valid_after(now + days * DAY)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(entry) for entry in names]), False)
        pair = Pair(builder.sign(self.pair.key, SHA256()), key)
        self.certificate(name).write_bytes(pair.pem)
        self.key(name).write_bytes(pair.key_pem)
        return pair

    def server_context(self, name: str, *, client_certificates: bool = False) -> ssl.SSLContext:
        """Return what Python's own `ssl` serves with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(name), self.key(name))
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path)
        return context

    def client_context(self, name: str | None = None) -> ssl.SSLContext:
        """Return a client of Python's own `ssl` that trusts the authority, with a certificate if one is named."""
        context = ssl.create_default_context(cafile=str(self.path))
        if name is not None:
            context.load_cert_chain(self.certificate(name), self.key(name))
        return context

    def certificate(self, name: str) -> Path:
        """Return where the certificate is."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """Return where its key is."""
        return self.folder / f"{name}.key"


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

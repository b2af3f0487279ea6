"""A certificate that vouches for itself, for stand-ins and tests: who is to trust it takes it as its authority.

It says all that RFC 5280 asks of an authority, because Python from 3.13 on believes no certificate that says less.

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["SelfSigned", "self_signed"]


class SelfSigned(NamedTuple):
    """PEM of a certificate and of its private key."""

    certificate: bytes
    key: bytes

    def server_context(self) -> ssl.SSLContext:
        """Return the server's side of TLS with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with NamedTemporaryFile() as chain:  # the one way into a context is by a file
            chain.write(self.certificate + self.key)
            chain.flush()
            context.load_cert_chain(chain.name)
        return context


def self_signed(place: str | IPv4Address) -> SelfSigned:
    """Return a new certificate for one host name or address, good for an hour before and a day after now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-signed.example.org")])
    now = datetime.now(UTC)  # noqa: TID251 - TLS compares with the machine's clock
    there = x509.DNSName(place) if isinstance(place, str) else x509.IPAddress(place)
    uses = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([there]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(uses, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SelfSigned(certificate.public_bytes(serialization.Encoding.PEM), secret)

"""A certificate authority of one's own, for stand-ins and tests: nobody else trusts it.

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from connectors.systems.opendsr.signature import PrivateKey

__all__ = ["Authority"]


class Authority:
    """One root. `issue` gives a key and its certificate; both live in memory only."""

    def __init__(self, now: datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Stand-in root, trusted by nobody")])
        self._now = now
        public = self._key.public_key()
        self._root = (
            self._builder(self._name, public, timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, SHA256())
        )

    @property
    def root_pem(self) -> bytes:
        """Return the root certificate: what a receiver must trust."""
        return self._root.public_bytes(Encoding.PEM)

    def issue(
        self, domain: str, *, kind: Literal["rsa", "ec"] = "rsa", lifetime: timedelta = timedelta(days=90)
    ) -> tuple[PrivateKey, bytes]:
        """Return a new private key and the PEM certificate that names `domain` as its subject alternative name."""
        key: PrivateKey = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if kind == "rsa"
            else ec.generate_private_key(ec.SECP256R1())
        )
        certificate = (
            self._builder(x509.Name([]), key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=True)
            .sign(self._key, SHA256())
        )
        return key, certificate.public_bytes(Encoding.PEM)

    def _builder(
        self, subject: x509.Name, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - timedelta(hours=1))
            .not_valid_after(self._now + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

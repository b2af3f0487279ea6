"""Signatures of OpenDSR answers: made by the processor, checked here over the raw bytes, before anything is parsed.

OpenDSR 2.0 sections 4.1, 4.2 and 7.3 fix SHA-256, base64 and a CA-issued certificate, and leave the algorithm open: RSA keys
are taken as PKCS#1 v1.5 (what processors send), elliptic ones as ECDSA. Revocation is not checked.

Steps of `Trust.check` and `verify`, in this order: the domain is one we allow; the certificate is valid now, its chain ends in
a root we trust, its SAN names the domain; the signature fits the bytes. Each raises `NotGenuine`, none returns anything.

Room rules: pure functions of bytes, keys and a given instant; no HTTP here.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

__all__ = ["NotGenuine", "PrivateKey", "Trust", "certificates", "sign", "verify"]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class NotGenuine(Exception):
    """A signature, certificate or domain is not what it must be. The text says which step failed and quotes nothing."""


def sign(body: bytes, key: PrivateKey) -> str:
    """Return the base64 signature of a body."""
    if isinstance(key, rsa.RSAPrivateKey):
        return base64.b64encode(key.sign(body, padding.PKCS1v15(), SHA256())).decode()
    return base64.b64encode(key.sign(body, ec.ECDSA(SHA256()))).decode()


def verify(body: bytes, signature: str, certificate: x509.Certificate) -> None:
    """Check a signature over raw bytes. Raises `NotGenuine`. White space inside the base64 is ignored: some wrap its lines."""
    try:
        raw = base64.b64decode("".join(signature.split()), validate=True)
    except (binascii.Error, ValueError):
        raise NotGenuine("the signature is not base64") from None
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, body, padding.PKCS1v15(), SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(raw, body, ec.ECDSA(SHA256()))
        else:
            raise NotGenuine("the certificate's key is neither RSA nor elliptic")
    except InvalidSignature:
        raise NotGenuine("the signature does not fit the answer") from None


def certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, the processor's own first. Raises `NotGenuine` if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise NotGenuine("the processor's certificate is not PEM") from None


class Trust:
    """Which processor domains and which roots we believe."""

    def __init__(self, domains: Sequence[str], roots: Sequence[x509.Certificate]) -> None:
        self.domains = frozenset(domain.lower() for domain in domains)
        self._store = Store(list(roots))

    def check(self, domain: str, chain: Sequence[x509.Certificate], now: datetime) -> None:
        """Check that a certificate is that domain's, now. Raises `NotGenuine`."""
        if domain.lower() not in self.domains:
            raise NotGenuine("the processor domain is not on our list")
        try:
            verifier = PolicyBuilder().store(self._store).time(now).build_server_verifier(_subject(domain))
            verifier.verify(chain[0], list(chain[1:]))
        except (VerificationError, ValueError):
            raise NotGenuine("the certificate is expired, of another domain, or not issued by a root we trust") from None


def _subject(domain: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(domain))
    except ValueError:
        return x509.DNSName(domain)

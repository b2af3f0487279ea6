"""A broker that lets nobody do anything unless a rule allows it, with a door for each way of saying who one is.

Its doors: SCRAM and PLAIN in clear and under TLS, certificates of both sides, and bearer tokens under TLS, which it checks
against the keys of an issuer. Users, passwords, a certificate authority, certificates and the issuer's keys are made for this
broker.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from token_issuer import AUDIENCE

from orchestrator.adapters.broker import connection_to
from orchestrator.adapters.local_kafka import LocalKafka
from schemas.broker import BrokerReach
from tests.chaos.servers import free_ports

ADMIN = "root"
_DOORS = ("PLAINTEXT", "CONTROLLER", "SASL", "SASLTLS", "TLS", "BEARER")
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_OAUTH = "org.apache.kafka.common.security.oauthbearer"


def password_of(user: str) -> str:
    """Return the password of a user of the test."""
    return f"pw-of-{user}"


@dataclass
class Authority:
    """A certificate authority with a folder of PEM files."""

    folder: Path
    _key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = certificate.add_extension(usage, critical=True)
        signed = certificate.sign(self._key, hashes.SHA256())
        self.roots = self.folder / "authority.pem"
        self.roots.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path, Path]:
        """Return the files of a new certificate and its key, and one of both together."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        places = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = self._builder(subject, key).add_extension(places, critical=False).add_extension(uses, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files = tuple(self.folder / f"{name}.{kind}.pem" for kind in ("certificate", "key", "both"))
        for path, content in zip(files, (certificate, secret, secret + certificate), strict=True):
            path.write_bytes(content)
        return files[0], files[1], files[2]

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


@dataclass(frozen=True)
class SecuredKafka:
    """The broker's doors (`host:port`), and how a user goes through them."""

    broker: LocalKafka
    sasl: str
    sasl_tls: str
    tls: str
    bearer: str
    authority: Authority

    def reach(self, user: str, *, tls: bool = False, **changes: object) -> BrokerReach:
        """Return the settings of a user with SCRAM."""
        values: dict[str, object] = {
            "kafka_bootstrap": self.sasl_tls if tls else self.sasl,
            "security_protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
            "sasl_username": user,
            "sasl_password": password_of(user),
        }
        if tls:
            values["ssl_ca_file"] = self.authority.roots
        return BrokerReach(**{**values, **changes})

    def admin_properties(self) -> str:
        """Return the super user's settings for Kafka's own commands."""
        return "\n".join(
            [
                "security.protocol=SASL_SSL",
                "sasl.mechanism=SCRAM-SHA-512",
                f'sasl.jaas.config={_SCRAM.rstrip(";")} username="{ADMIN}" password="{password_of(ADMIN)}";',
                "ssl.truststore.type=PEM",
                f"ssl.truststore.location={self.authority.roots}",
            ]
        )

    def connection(self, user: str) -> dict[str, Any]:
        """Return what a client of aiokafka takes for a user with SCRAM."""
        return connection_to(self.reach(user))


def secured_kafka(folder: Path, users: Iterable[str], issuer: str) -> SecuredKafka:
    """Return the broker, not started yet. `issuer` is where the keys of whoever signs bearer tokens are had, now and later."""
    authority = Authority(folder)
    _, _, both = authority.issue("broker")
    doors = dict(zip(_DOORS, free_ports(len(_DOORS)), strict=True))
    broker = LocalKafka(
        folder / "kafka",
        doors["PLAINTEXT"],
        overrides=_settings(doors, authority.roots, both, users) | _bearer(issuer),
        options=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer}/jwks"],
        formatting=[
            word
            for user in (ADMIN, *users)
            for hashed in ("256", "512")
            for word in ("--add-scram", f"SCRAM-SHA-{hashed}=[name={user},password={password_of(user)},iterations=4096]")
        ],
    )
    where = {name: f"127.0.0.1:{port}" for name, port in doors.items()}
    return SecuredKafka(broker, where["SASL"], where["SASLTLS"], where["TLS"], where["BEARER"], authority)


def _settings(doors: Mapping[str, int], roots: Path, both: Path, users: Iterable[str]) -> dict[str, str]:
    """The plain door is only asked whether the broker is there: whoever comes through it is nobody and may do nothing."""
    known = " ".join(f'user_{user}="{password_of(user)}"' for user in (ADMIN, *users))
    plain = f'{_PLAIN} username="{ADMIN}" password="{password_of(ADMIN)}" {known};'
    scram = "SCRAM-SHA-256,SCRAM-SHA-512"
    settings = {
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in doors.items()),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT,SASL:SASL_PLAINTEXT,"
        "SASLTLS:SASL_SSL,TLS:SSL,BEARER:SASL_SSL",
        "controller.quorum.voters": f"1@127.0.0.1:{doors['CONTROLLER']}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{ADMIN}",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": plain,
        "listener.name.sasl.sasl.enabled.mechanisms": f"{scram},PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": plain,
        "listener.name.sasltls.sasl.enabled.mechanisms": f"{scram},PLAIN",
        "listener.name.sasltls.plain.sasl.jaas.config": plain,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(roots),
        "listener.name.tls.ssl.client.auth": "required",
        "listener.name.tls.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
    }
    for door in ("sasl", "sasltls"):
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            settings[f"listener.name.{door}.{mechanism}.sasl.jaas.config"] = _SCRAM
    return settings


def _bearer(issuer: str) -> dict[str, str]:
    """As docs/security.md writes it: tokens are checked against the issuer's keys."""
    door = "listener.name.bearer"
    return {
        f"{door}.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{door}.oauthbearer.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required;",
        f"{door}.oauthbearer.sasl.server.callback.handler.class": f"{_OAUTH}.OAuthBearerValidatorCallbackHandler",
        f"{door}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": f"{issuer}/jwks",
        f"{door}.oauthbearer.sasl.oauthbearer.expected.issuer": issuer,
        f"{door}.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
    }

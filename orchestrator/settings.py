"""What can be set, from environment variables that start with `DSR_`.

Room rules: names, defaults and their reasons; a secret is a `SecretStr` and is never printed.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.core.policy import Policy
from schemas.blobs import BlobKey
from schemas.broker import BrokerReach
from schemas.errors import ConfigurationError
from schemas.page_readers import TOKEN_VARIABLE, PageReaders
from schemas.set_aside import quarantine_key
from schemas.topics import DEFAULT_PREFIX
from schemas.trust import SigningKey, Trust

__all__ = ["DEPLOY", "BrokerSettings", "Settings", "load_broker", "load_settings"]

#: The folder of deployment files that is installed beside the packages.
DEPLOY = Path(__file__).resolve().parent.parent / "deploy"

S = TypeVar("S", bound=BaseSettings)
Seconds = Annotated[float, Field(gt=0)]


class BrokerSettings(BrokerReach, BaseSettings):
    """How to reach the broker: what every command that speaks Kafka reads."""

    model_config = SettingsConfigDict(env_prefix="DSR_", extra="ignore", hide_input_in_errors=True)


class Settings(BrokerSettings):
    """The worker's and the operators' settings."""

    topic_prefix: Annotated[str, Field(description="First part of every topic's and group's name")] = DEFAULT_PREFIX
    registry: Annotated[Path, Field(description="The registry file")] = DEPLOY / "registry" / "example-company.yaml"
    store_url: Annotated[str, Field(repr=False, description="sqlite:///file or postgresql+psycopg://...")] = (
        "sqlite:///dsr.sqlite"
    )
    key_encryption_key: Annotated[
        SecretStr | None, Field(description="Wraps every other key: base64 of 32 bytes; older ones may follow, to unwrap only")
    ] = None
    key_encryption_key_file: Annotated[Path | None, Field(description="The same, in a file")] = None
    vault_addr: Annotated[
        str | None, Field(description="Vault or OpenBao, https://host:8200: opens the keys of the file that it has wrapped")
    ] = None
    vault_token: Annotated[SecretStr | None, Field(description="Its token")] = None
    vault_token_file: Annotated[Path | None, Field(description="The same, in a file, as an agent writes it")] = None
    vault_namespace: Annotated[str | None, Field(description="The namespace, where there are some")] = None
    vault_mount: Annotated[str, Field(min_length=1, description="Where the transit engine is mounted")] = "transit"
    vault_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,80}$", description="Name of the transit engine's key")] = "dsr"
    vault_ca_file: Annotated[Path | None, Field(description="PEM of who signed its certificate")] = None
    signatures: Annotated[
        Literal["required", "off"], Field(description="off believes whoever can write to a topic: laptops and tests only")
    ] = "required"
    trust_file: Annotated[Path | None, Field(description="JWK set: whose signatures are believed, see `dsr keys`")] = None
    signing_key: Annotated[SecretStr | None, Field(description="Private JWK of whoever runs this: `dsr keys new`")] = None
    signing_key_file: Annotated[Path | None, Field(description="The same, in a file")] = None
    intake_keys: Annotated[
        str | None,
        Field(description="Where commands that file requests find the intake keys: a URL or file; else our own page"),
    ] = None
    intake_rotation: Annotated[timedelta, Field(gt=timedelta(0), description="So often portals get a new key to seal to")] = (
        timedelta(days=30)
    )
    quarantine_key_file: Annotated[
        Path | None, Field(description="Operators' public JWK, from `dsr keys quarantine`: what is set aside is sealed to it")
    ] = None
    worker_id: Annotated[
        str, Field(min_length=1, max_length=80, description="Unique and stable per worker; the host's name by default")
    ] = Field(default_factory=socket.gethostname)
    datadir: Annotated[Path, Field(description="Writable folder of this worker")] = Path(".dsr")
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535, description="Metrics, health and keys; 0 takes a free port")] = 9464
    http_tls_cert_file: Annotated[
        Path | None, Field(description="Certificate with its chain: connectors ask for keys here")
    ] = None
    http_tls_key_file: Annotated[Path | None, Field(description="Its private key")] = None
    metrics_token: Annotated[
        SecretStr | None, Field(description="Who sends it is shown metrics and reasons; without one only this machine is")
    ] = None
    metrics_token_file: Annotated[Path | None, Field(description="The same, in a file")] = None
    key_questions_per_second: Annotated[
        float, Field(gt=0, description="Questions about keys from one system, on average; twice as many at once")
    ] = 100.0
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"

    session_timeout_seconds: Seconds = 20.0
    commit_interval_seconds: Seconds = 1.0
    sweep_interval_seconds: Seconds = 1.0
    adopt_after_seconds: Annotated[float, Field(gt=0, description="Longer than a publish may take")] = 60.0
    batch_records: Annotated[int, Field(ge=1, le=20_000)] = 2_000
    quarantine_limit: Annotated[int, Field(ge=1, description="Records set aside in a minute before it stops")] = 1_000
    defect_lives: Annotated[
        int, Field(ge=1, description="So many lives end at a record at which our own code fails, before it is set aside")
    ] = 3
    careful_after: Annotated[
        int, Field(ge=0, description="So many ends without a word make a worker try records one by one for a minute; 0 never")
    ] = 2
    watchdog_seconds: Annotated[
        float, Field(ge=0, description="Lag without a commit for so long makes /healthz fail; 0 never")
    ] = 120.0
    clock_skew_seconds: Annotated[
        float, Field(ge=0, description="A worker whose clock is further from the broker's does not start; 0 does not ask")
    ] = 30.0
    watchdog_ends_process: bool = False
    fault_point: Annotated[str | None, Field(description="For tests: where the process kills itself, as after_save:3")] = None
    replication_factor: Annotated[
        int, Field(ge=1, description="Copies of each partition that the topics must have; 3 in production, 1 for one broker")
    ] = 1

    keys_grow_old: Annotated[
        timedelta, Field(description="A request that is open for longer has a key older than policy allows: it alerts")
    ] = timedelta(days=120)
    verification: timedelta = timedelta(days=14)
    resend_after: timedelta = timedelta(hours=6)
    resend_at_most: timedelta = timedelta(days=2)
    promise_grace: timedelta = timedelta(hours=24)
    status_every: timedelta = timedelta(days=7)
    due_soon: timedelta = timedelta(days=5)
    retention_review: timedelta = timedelta(days=365)
    clock_tolerance: timedelta = timedelta(hours=24)

    def policy(self) -> Policy:
        """Return the core's policy."""
        return Policy(**{name: getattr(self, name) for name in Policy.__dataclass_fields__})

    def trust(self) -> Trust | None:
        """Return the keys whose signatures are believed, None if no file is named. Raises `ConfigurationError`."""
        return None if self.trust_file is None else Trust.from_json(self.trust_content())

    def trust_content(self) -> bytes:
        """Return the bytes of the trust file. Raises `ConfigurationError`."""
        if self.trust_file is None:
            raise ConfigurationError(
                "DSR_TRUST_FILE is not set: name the JWK set of those who may speak (`dsr keys new`), or choose"
                " DSR_SIGNATURES=off"
            )
        return _content(self.trust_file, "DSR_TRUST_FILE")

    def quarantine_key(self) -> BlobKey | None:
        """Return the key that quarantined records are sealed to, None if none is set. Raises `ConfigurationError`."""
        if self.quarantine_key_file is None:
            return None
        try:
            return quarantine_key(_content(self.quarantine_key_file, "DSR_QUARANTINE_KEY_FILE"))
        except ConfigurationError as error:
            raise ConfigurationError(f"DSR_QUARANTINE_KEY_FILE: {error}") from None

    def wrapping_keys(self) -> str:
        """Return the text of the key-encryption keys, the current one first. Raises `ConfigurationError` if none is set."""
        if self.key_encryption_key is not None:
            return self.key_encryption_key.get_secret_value()
        if self.key_encryption_key_file is not None:
            return _content(self.key_encryption_key_file, "DSR_KEY_ENCRYPTION_KEY_FILE").decode("utf-8", "replace")
        raise ConfigurationError(
            "DSR_KEY_ENCRYPTION_KEY_FILE is not set: name a file made with `openssl rand -base64 32`, the same for all workers"
        )

    def vault_secret(self) -> str:
        """Return Vault's token. Raises `ConfigurationError` if none is set."""
        if self.vault_token is not None:
            return self.vault_token.get_secret_value()
        if self.vault_token_file is not None:
            return _content(self.vault_token_file, "DSR_VAULT_TOKEN_FILE").decode("utf-8", "replace").strip()
        raise ConfigurationError("DSR_VAULT_TOKEN_FILE is not set: name the file with the token for DSR_VAULT_ADDR")

    def page_readers(self) -> PageReaders:
        """Return who is shown metrics and the reasons of a bad health. Raises `ConfigurationError` for a token of no use."""
        token = None if self.metrics_token is None else self.metrics_token.get_secret_value()
        if token is None and self.metrics_token_file is not None:
            token = _content(self.metrics_token_file, TOKEN_VARIABLE).decode("utf-8", "replace").strip()
        return PageReaders(token, self.http_host)

    def signer(self) -> SigningKey | None:
        """Return the key that this process or person signs with, None if none is set. Raises `ConfigurationError`."""
        if self.signing_key is not None:
            return SigningKey.from_json(self.signing_key.get_secret_value())
        if self.signing_key_file is not None:
            return SigningKey.from_json(_content(self.signing_key_file, "DSR_SIGNING_KEY_FILE"))
        return None


def _content(file: Path, variable: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{variable} cannot be read ({type(error).__name__}): name a file that exists") from None


def load_settings(**overrides: Any) -> Settings:
    """Return the settings. Raises `ConfigurationError` that names every wrong variable, never its value."""
    return _load(Settings, overrides)


def load_broker() -> BrokerSettings:
    """Return how to reach the broker. Raises as `load_settings` does."""
    return _load(BrokerSettings, {})


def _load(kind: type[S], overrides: dict[str, Any]) -> S:
    try:
        return kind(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        wrong = [
            f"DSR_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigurationError("; ".join(wrong)) from None

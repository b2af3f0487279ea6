"""Settings of a connector process, from the environment with the prefix `DSR_`; secrets may lie in files.

Room rules: a wrong setting names itself and the remedy and never quotes its value; secrets are `SecretStr`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.blobs import BlobKey
from schemas.broker import BrokerReach
from schemas.errors import ConfigurationError
from schemas.page_readers import PageReaders
from schemas.set_aside import quarantine_key
from schemas.topics import DEFAULT_PREFIX, Topics
from schemas.trust import SigningKey

__all__ = [
    "ConnectorSettings",
    "RuntimeSettings",
    "SigningSettings",
    "content_of",
    "note_address",
    "read",
    "secret_in_file",
    "setting_of_address",
]

S = TypeVar("S", bound=BaseSettings)

#: Scheme, host and port of addresses that were read -> the variable of each: an error names it, and not the address.
_ADDRESSES: dict[tuple[str, str, int], str] = {}
_PORTS = {"http": 80, "https": 443}


def secret_in_file(variable: str, environment: Mapping[str, str]) -> str | None:
    """Return the secret in the file that `<variable>_FILE` names, None if it names none.

    A line's end at the end is not part of it. Raises `ConfigurationError` for a file of no use, and for a secret in two places.
    """
    file = environment.get(f"{variable}_FILE")
    if file is None:
        return None
    if environment.get(variable) is not None:
        raise ConfigurationError(f"set one of {variable} and {variable}_FILE, not both")
    try:
        text = content_of(Path(file), f"{variable}_FILE").decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable}_FILE: is no text: name the file that holds the secret") from None
    if not text:
        raise ConfigurationError(f"{variable}_FILE: is empty: put the secret into it")
    return text


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets in files, as containers and vault agents lay them down: `<variable>_FILE` names one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a secret's value, or None; the settings class asks for all at once instead."""
        return self._content(field, field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that lie in files. Raises `ConfigurationError` for a file that is of no use."""
        found = {name: self._content(field, name) for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _content(self, field: FieldInfo, name: str) -> str | None:
        # A setting that has a file of its own beside it reads that by itself.
        if not _is_secret(field) or f"{name}_file" in self.settings_cls.model_fields:
            return None
        return secret_in_file(_variable(self.settings_cls, name), os.environ)


class ConnectorSettings(BaseSettings):
    """Base of a system's own settings: subclass it with `model_config = SettingsConfigDict(env_prefix="DSR_ACME_")`.

    Each field that is a `SecretStr` can be read from a file as well, which `<its variable>_FILE` names.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from: arguments, the environment, and for secrets the files that it names."""
        return init_settings, env_settings, dotenv_settings, file_secret_settings, _SecretFiles(settings_cls)


class SigningSettings(ConnectorSettings):
    """What it takes to sign what is published: a key, or the explicit choice to do without."""

    signatures: Annotated[Literal["required", "off"], Field(description="off publishes unsigned: laptops and tests only")] = (
        "required"
    )
    signing_key: Annotated[SecretStr | None, Field(description="Private JWK, from `dsr keys new PRINCIPAL`")] = None
    signing_key_file: Annotated[Path | None, Field(description="The same, in a file")] = None

    def signer(self, principal: str) -> SigningKey | None:
        """Return the key of this principal, None if signatures are off. Raises `ConfigurationError`."""
        if self.signatures == "off":
            return None
        prefix = str(self.model_config.get("env_prefix") or "")
        if self.signing_key is not None:
            key = SigningKey.from_json(self.signing_key.get_secret_value())
        elif self.signing_key_file is not None:
            key = SigningKey.from_json(content_of(self.signing_key_file, f"{prefix}SIGNING_KEY_FILE"))
        else:
            raise ConfigurationError(
                f"{prefix}SIGNING_KEY_FILE: set it to a key from `dsr keys new {principal}`, or choose {prefix}SIGNATURES=off"
            )
        if key.principal != principal:
            raise ConfigurationError(f"{prefix}SIGNING_KEY_FILE: this is the key of {key.principal}; sign as {principal}")
        return key


class RuntimeSettings(BrokerReach, SigningSettings):
    """What the runtime needs, whatever the system."""

    model_config = SettingsConfigDict(env_prefix="DSR_")

    topic_prefix: Annotated[str, Field(description="First part of every topic's name")] = DEFAULT_PREFIX
    keys_url: Annotated[
        str,
        Field(
            min_length=8,
            description="Where orders' keys are given out: base URLs of the workers, separated by commas",
            examples=["http://127.0.0.1:9464"],
        ),
    ]
    keys_ca_file: Annotated[Path | None, Field(description="PEM file of who signs the workers' certificates")] = None
    quarantine_key_file: Annotated[
        Path | None, Field(description="Operators' public JWK, from `dsr keys quarantine`: what is set aside is sealed to it")
    ] = None
    state_dir: Annotated[Path, Field(description="Folder of the journal and of exported data")] = Path(".dsr")
    quota_url: Annotated[
        SecretStr | None,
        Field(description="SQLite or PostgreSQL where all processes of a system count their calls; else one in the folder"),
    ] = None
    group_instance_id: Annotated[
        str | None, Field(description="Static membership: unique and stable per process, for a quick restart")
    ] = None
    session_timeout_seconds: Annotated[float, Field(ge=1, le=300)] = 20.0
    max_tries: Annotated[int, Field(ge=1, description="Calls of the connector's method for one attempt of an order")] = 60
    backoff_base_seconds: Annotated[float, Field(gt=0)] = 5.0
    backoff_max_seconds: Annotated[float, Field(gt=0)] = 3600.0
    poll_base_seconds: Annotated[float, Field(gt=0, description="First wait before asking after a vendor's job")] = 5.0
    poll_max_seconds: Annotated[float, Field(gt=0)] = 3600.0
    pause_after_failures: Annotated[
        int, Field(ge=1, description="So many failures in a row, of any orders, leave the system alone for a while")
    ] = 5
    pause_base_seconds: Annotated[float, Field(gt=0, description="How long at first; grows while probes fail")] = 30.0
    pause_max_seconds: Annotated[float, Field(gt=0)] = 900.0
    quarantined_in_a_row: Annotated[int, Field(ge=1, description="So many bad records in a row stop the process")] = 100
    results_kept_days: Annotated[int, Field(ge=1, description="How long exported data is kept for the person")] = 30
    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Field(ge=0, le=65535, description="0 takes a free port")] = 0
    metrics_token: Annotated[
        SecretStr | None, Field(description="Who sends it is shown the metrics; without one only this machine is")
    ] = None

    @property
    def topics(self) -> Topics:
        """Return the names of this installation's topics."""
        return Topics(prefix=self.topic_prefix)

    def page_readers(self) -> PageReaders:
        """Return who is shown the metrics. Raises `ConfigurationError` for a token of no use."""
        token = None if self.metrics_token is None else self.metrics_token.get_secret_value()
        return PageReaders(token, self.health_host)

    def quarantine_key(self) -> BlobKey | None:
        """Return the key that quarantined records are sealed to, None if none is set. Raises `ConfigurationError`."""
        if self.quarantine_key_file is None:
            return None
        try:
            return quarantine_key(content_of(self.quarantine_key_file, "DSR_QUARANTINE_KEY_FILE"))
        except ConfigurationError as error:
            raise ConfigurationError(f"DSR_QUARANTINE_KEY_FILE: {error}") from None

    @property
    def keys_urls(self) -> list[str]:
        """Return the workers' addresses. Raises `ConfigurationError`."""
        urls = [url.strip().rstrip("/") for url in self.keys_url.split(",") if url.strip()]
        if not urls or not all(url.startswith(("https://", "http://")) for url in urls):
            raise ConfigurationError("DSR_KEYS_URL: give base URLs, for instance http://127.0.0.1:9464")
        return urls


def content_of(file: Path, variable: str) -> bytes:
    """Return a file's bytes. Raises `ConfigurationError` that names the variable."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{variable} cannot be read ({type(error).__name__}): name a file that exists") from None


def read(settings: type[S]) -> S:
    """Return settings read from the environment.

    Raises `ConfigurationError` naming each variable that is wrong; of one that is missing also what it is and where to read.
    """
    try:
        found = settings()
    except ValidationError as error:
        prefix = str(settings.model_config.get("env_prefix") or "")
        errors = error.errors()
        wrong = [
            f"{prefix}{'_'.join(str(part) for part in one['loc'])}".upper()
            + f": {_remedy(settings, one['type'], one['msg'], one['loc'])}"
            for one in errors
        ]
        guide = _guide(settings) if any(e["type"] == "missing" for e in errors) else None
    else:
        for name in reversed(settings.model_fields):  # of two with the same address the first one is named
            value = getattr(found, name)
            if isinstance(value, str):
                note_address(_variable(settings, name), value)
        return found
    raise ConfigurationError("; ".join([*sorted(wrong), *([f"see {guide}"] if guide else [])]))


def note_address(variable: str, value: str) -> None:
    """Remember which variable an HTTP address came from; anything else is passed by."""
    origin = _origin(value)
    if origin is not None:
        _ADDRESSES[origin] = variable


def setting_of_address(url: str) -> str | None:
    """Return the variable that a URL's address came from, None if it was not read from one."""
    origin = _origin(url)
    return None if origin is None else _ADDRESSES.get(origin)


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            return None
        return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:
        return None


def _variable(settings: type[BaseSettings], field: str) -> str:
    return f"{settings.model_config.get('env_prefix') or ''}{field}".upper()


def _is_secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def _remedy(settings: type[BaseSettings], kind: str, message: str, where: tuple[int | str, ...]) -> str:
    if kind != "missing":
        return message
    field = settings.model_fields.get(str(where[0])) if where else None
    told = [field.description] if field is not None and field.description else []
    told += [f"for instance {example}" for example in (field.examples or [])[:1]] if field is not None else []
    beside = f" or {_variable(settings, str(where[0]))}_FILE" if field is not None and _is_secret(field) else ""
    return f"set this variable{beside} ({', '.join(told)})" if told else f"set this variable{beside}"


def _guide(settings: type[BaseSettings]) -> str | None:
    """Return the page that a newcomer should read; None for a connector from outside, whose pages are not ours."""
    parts = settings.__module__.split(".")
    if parts[:2] == ["connectors", "sdk"]:
        return "connectors/README.md"
    return f"{'/'.join(parts[:3])}/README.md" if parts[:2] == ["connectors", "systems"] else None

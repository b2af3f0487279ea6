"""Secrets of connectors in files: each secret of every system, and what is said of a file that is of no use."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

import connectors.systems
from connectors.sdk.settings import ConnectorSettings, RuntimeSettings, read, setting_of_address
from schemas.errors import ConfigurationError


class AcmeSettings(ConnectorSettings):
    """A system with a secret that it must have, one that it may have, and a name."""

    model_config = SettingsConfigDict(env_prefix="DSR_ACME_")

    name: str = "acme"
    token: SecretStr
    other: SecretStr | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a secret, as an agent writes it."""
    file = tmp_path / "token"
    file.write_text("hush-hush\n")
    return file


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """The line's end does not belong to it; what is no secret is not read from a file."""
    monkeypatch.setenv("DSR_ACME_TOKEN_FILE", str(file))
    monkeypatch.setenv("DSR_ACME_OTHER_FILE", str(file))
    monkeypatch.setenv("DSR_ACME_NAME_FILE", str(file))
    found = read(AcmeSettings)
    assert found.token.get_secret_value() == "hush-hush"
    assert found.other is not None and found.other.get_secret_value() == "hush-hush"
    assert found.name == "acme"
    assert "hush" not in repr(found)


def test_what_is_given_otherwise_needs_no_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """An argument wins over a file, as over the environment."""
    monkeypatch.setenv("DSR_ACME_TOKEN_FILE", str(file))
    assert AcmeSettings(token=SecretStr("argument")).token.get_secret_value() == "argument"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is no text"),
    ],
)
def test_a_file_of_no_use_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, says: str) -> None:
    """By its variable, and without what stands in it."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("DSR_ACME_TOKEN_FILE", str(file))
    with pytest.raises(ConfigurationError, match=f"DSR_ACME_TOKEN_FILE:? {says}"):
        read(AcmeSettings)


def test_a_secret_in_two_places_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Which of them is meant cannot be known."""
    monkeypatch.setenv("DSR_ACME_TOKEN", "other")
    monkeypatch.setenv("DSR_ACME_TOKEN_FILE", str(file))
    with pytest.raises(ConfigurationError, match="set one of DSR_ACME_TOKEN and DSR_ACME_TOKEN_FILE, not both"):
        read(AcmeSettings)


def test_a_missing_secret_is_told_both_ways() -> None:
    """Whoever sets it up learns that a file will do."""
    with pytest.raises(ConfigurationError, match="DSR_ACME_TOKEN: set this variable or DSR_ACME_TOKEN_FILE"):
        read(AcmeSettings)


def _all_settings() -> list[type[ConnectorSettings]]:
    for system in pkgutil.iter_modules(connectors.systems.__path__):
        importlib.import_module(f"connectors.systems.{system.name}.connector")
    todo, found = [ConnectorSettings], []
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        found.append(kind)
    return [kind for kind in found if kind.__module__.startswith("connectors.") and kind.model_config.get("env_prefix")]


@pytest.mark.parametrize("kind", sorted(set(_all_settings()), key=lambda kind: (kind.__module__, kind.__name__)))
def test_every_secret_of_every_system_has_a_file(
    kind: type[ConnectorSettings], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """Whatever is a secret can be kept out of the environment; a name that sounds like one is one."""
    prefix = str(kind.model_config["env_prefix"])
    secrets = [
        name for name, field in kind.model_fields.items() if "SecretStr" in str(field.annotation)
        and f"{name}_file" not in kind.model_fields
    ]  # fmt: skip
    for name in kind.model_fields:
        if name.endswith(("token", "secret", "password", "api_key")):
            assert "SecretStr" in str(kind.model_fields[name].annotation), name
    for name in secrets:
        monkeypatch.setenv(f"{prefix}{name}_FILE".upper(), str(file))
    told = ""
    try:
        kind()
    except ConfigurationError:
        raise
    except ValueError as error:  # other settings are missing
        told = str(error)
    for name in secrets:
        assert f"\n{name}\n" not in f"\n{told}\n", "still missing"


def test_the_runtime_reads_its_own_files_as_before(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Settings with a file of their own beside them are left to these; the others can be in a file too."""
    monkeypatch.setenv("DSR_KEYS_URL", "http://127.0.0.1:9464")
    monkeypatch.setenv("DSR_SIGNING_KEY_FILE", str(file))
    monkeypatch.setenv("DSR_QUOTA_URL_FILE", str(file))
    found = read(RuntimeSettings)
    assert found.signing_key is None and found.signing_key_file == file
    assert found.quota_url is not None and found.quota_url.get_secret_value() == "hush-hush"


class PlaceSettings(ConnectorSettings):
    """A system with two addresses at one place, one elsewhere, and what is none."""

    model_config = SettingsConfigDict(env_prefix="DSR_PLACE_")

    base_url: str = "https://user:hush@place.example/v3?key=hush"
    token_url: str = "https://place.example:443/token"
    other_url: str = "http://[::1]:8765"
    name: str = "https://[nonsense"
    port: int = 8765


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://place.example/people?email=ada@example.org", "DSR_PLACE_BASE_URL"),
        ("HTTPS://PLACE.example:443", "DSR_PLACE_BASE_URL"),
        ("http://[::1]:8765/x", "DSR_PLACE_OTHER_URL"),
        ("http://place.example/", None),
        ("https://place.example:8443/", None),
        ("https://place.example:port/", None),
        ("ftp://place.example/", None),
        ("", None),
    ],
)
def test_an_address_leads_back_to_its_setting(url: str, variable: str | None) -> None:
    """By scheme, host and port; of two settings with the same the first one."""
    read(PlaceSettings)
    assert setting_of_address(url) == variable

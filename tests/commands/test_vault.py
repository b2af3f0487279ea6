"""Key-encryption keys that Vault holds: made, opened, rotated; a Vault that refuses, is sealed, away or somebody else."""

from __future__ import annotations

import asyncio
import base64
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.adapters import vault as vault_module
from orchestrator.adapters.vault import VaultTransit
from orchestrator.bootstrap import key_encryption
from orchestrator.cli import app
from orchestrator.commands.doctor import DANGER, Premises, findings
from orchestrator.settings import Settings
from schemas.errors import ConfigurationError, StoreUnavailable
from tests.commands.test_doctor import NOW
from tests.vault_kit import BAO, RealVault, VaultStandIn, real_vault, vault_stand_in

Vault = RealVault | VaultStandIn
CLEAR = base64.b64encode(b"c" * 32).decode()


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(BAO is None, reason="no bao on the path"))])
async def vault(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vault]:
    """Give a transit engine."""
    if request.param == "real":
        with real_vault(tmp_path) as real:
            yield real
    else:
        async with vault_stand_in() as made:
            yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "_WAITS", (0.05, 0.1))


def settings_of(vault: Vault, tmp_path: Path, *lines: str, **changes: object) -> Settings:
    """Return settings with a key file and a token file."""
    file, token = tmp_path / "kek.txt", tmp_path / "token"
    file.write_text("\n".join(lines))
    token.write_text(vault.token + "\n")
    given = {"key_encryption_key_file": file, "vault_addr": vault.url, "vault_token_file": token}
    return Settings(**{**given, **changes})  # type: ignore[arg-type] # as the environment would


async def run(vault: Vault, tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Run `dsr keys vault`."""
    env = {"DSR_VAULT_ADDR": vault.url, "DSR_VAULT_TOKEN": vault.token}
    env["DSR_KEY_ENCRYPTION_KEY_FILE"] = str(tmp_path / "kek.txt")
    done = await asyncio.to_thread(CliRunner().invoke, app, ["keys", "vault", *arguments], env=env)
    return done.exit_code, done.output.strip()


async def test_a_key_that_only_vault_opens_wraps_and_unwraps(vault: Vault, tmp_path: Path) -> None:
    """Made without being seen; opened anew it is the same; it stands before a clear one, which still unwraps."""
    code, line = await run(vault, tmp_path)
    assert code == 0 and line.startswith("vault:v1:")
    made = await key_encryption(settings_of(vault, tmp_path, line))
    wrapped = made.wrap(b"s" * 32, "place")
    assert (await key_encryption(settings_of(vault, tmp_path, line))).unwrap(wrapped, "place") == b"s" * 32
    both = await key_encryption(settings_of(vault, tmp_path, line, CLEAR))
    old = (await key_encryption(settings_of(vault, tmp_path, CLEAR))).wrap(b"o" * 32, "place")
    assert (both.kid, both.unwrap(old, "place"), both.is_current(old)) == (made.kid, b"o" * 32, False)
    if isinstance(vault, VaultStandIn):
        assert vault.asked == ["transit/datakey/wrapped/dsr", *["transit/decrypt/dsr"] * 3], "one call for all lines"


async def test_vault_s_own_key_is_rotated_and_ours_stay(vault: Vault, tmp_path: Path) -> None:
    """Lines wrapped anew open after the old version is refused; those that were not are named."""
    _, first = await run(vault, tmp_path)
    before = await key_encryption(settings_of(vault, tmp_path, first, CLEAR))
    await vault.rotate()
    code, anew = await run(vault, tmp_path, "--again")
    assert code == 0 and anew.split()[0].startswith("vault:v2:") and anew.split()[1] == CLEAR
    await vault.refuse_below(2)
    assert (await key_encryption(settings_of(vault, tmp_path, *anew.split()))).kid == before.kid
    with pytest.raises(ConfigurationError, match=r"key no\. 2 .* min_decryption_version"):
        await key_encryption(settings_of(vault, tmp_path, anew.split()[0], first))


async def test_what_vault_refuses_is_told_with_its_remedy(vault: Vault, tmp_path: Path) -> None:
    """A wrong token, key, mount; a line that is none; nothing of the token or the line is repeated."""
    _, line = await run(vault, tmp_path)
    torn = line[:-6] + ("AAAAA=" if not line.endswith("AAAAA=") else "BBBBB=")
    for lines, changes, remedy in (
        ([line], {"vault_token": "s.wrong"}, "DSR_VAULT_TOKEN"),
        ([line], {"vault_key": "other"}, "DSR_VAULT_KEY"),
        ([line], {"vault_mount": "elsewhere"}, "DSR_VAULT_MOUNT"),
        ([line], {"vault_addr": None}, "DSR_VAULT_ADDR"),
        ([line], {"vault_token_file": None}, "DSR_VAULT_TOKEN_FILE"),
        ([line, torn], {}, "key no. 2 of the key file"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            await key_encryption(settings_of(vault, tmp_path, *lines, **changes))
        assert remedy in str(caught.value)
        assert line[-20:] not in str(caught.value) and vault.token not in str(caught.value).split()


async def test_a_sealed_vault_is_waited_for(vault: Vault, tmp_path: Path) -> None:
    """Unsealed in time it answers; else the process ends as when the store is away: another start may succeed."""
    _, line = await run(vault, tmp_path)
    await vault.seal()
    with pytest.raises(StoreUnavailable, match="unsealed"):
        await key_encryption(settings_of(vault, tmp_path, line))
    waiting = asyncio.create_task(key_encryption(settings_of(vault, tmp_path, line)))
    await asyncio.sleep(0)
    await vault.unseal()
    assert (await waiting).kid.startswith("kek-")


async def test_a_vault_that_has_enough_of_us_or_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 and 503 pass; nobody at the address ends it; a namespace goes along."""
    async with vault_stand_in() as vault:
        _, line = await run(vault, tmp_path)
        vault.busy = [429, 503]
        assert (await key_encryption(settings_of(vault, tmp_path, line, vault_namespace="privacy"))).kid
        assert vault.namespaces[-3:] == ["privacy"] * 3
        gone = vault.url
    monkeypatch.setattr(vault_module, "_WAITS", (0.01,))
    with pytest.raises(StoreUnavailable, match="ConnectError"):
        await key_encryption(settings_of(VaultStandIn(url=gone), tmp_path, line))
    transit = VaultTransit(gone, "s.secret")
    assert "s.secret" not in repr(vars(transit).keys())
    await transit.aclose()


async def test_the_doctor_says_what_is_unsafe(tmp_path: Path) -> None:
    """In clear over the network, no token, a clear key beside Vault; a file that Vault has wrapped may lie by the store."""
    store = f"sqlite:///{tmp_path / 'store.sqlite'}"
    vault = VaultStandIn(url="http://vault.example.org:8200")

    def told(*lines: str, **changes: object) -> set[tuple[str, str]]:
        settings = settings_of(vault, tmp_path, *lines, store_url=store, **changes)
        settings.key_encryption_key_file.chmod(stat.S_IRUSR)  # type: ignore[union-attr] # it is set
        found = findings(Premises(settings, None, None, NOW))
        settings.key_encryption_key_file.chmod(0o600)  # type: ignore[union-attr] # it is set
        return {(one.severity, one.setting) for one in found if "VAULT" in one.setting or "ENCRYPTION" in one.setting}

    token = ("danger", "DSR_VAULT_TOKEN_FILE")
    assert told("vault:v1:x") - {token} == {(DANGER, "DSR_VAULT_ADDR")}
    assert told("vault:v1:x", vault_addr="https://vault.example.org") - {token} == set()
    assert token in told("vault:v1:x", vault_addr="https://vault.example.org", vault_token_file=None)
    assert {"danger", "notice"} == {
        severity for severity, setting in told(CLEAR, vault_addr="https://vault.example.org") if "ENCRYPTION" in setting
    }

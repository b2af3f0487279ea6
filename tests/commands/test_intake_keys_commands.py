"""`dsr keys intake`, and where commands that file requests find the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.adapters.clock import SystemClock
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.cli import app
from orchestrator.commands import intake_keys
from orchestrator.gateway.health import serve
from orchestrator.gateway.intake_keys import PATH, intake_keys_route
from orchestrator.ports import ServiceKey
from schemas.intake import IntakeKey, IntakeKeySet
from schemas.trust import ORCHESTRATOR, SigningKey

KEYS = IntakeKeySet(keys=(IntakeKey("intake-b", b"b" * 32).public, IntakeKey("intake-a", b"a" * 32).public))
SIGNER = SigningKey.new(ORCHESTRATOR)
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)


def trust_file(folder: Path, *keys: SigningKey) -> str:
    file = folder / "trust.json"
    file.write_text(json.dumps({"keys": [key.public() for key in keys]}))
    return str(file)


@pytest.fixture
async def page() -> AsyncIterator[str]:
    from starlette.applications import Starlette  # noqa: PLC0415 - of this fixture only

    async with serve(Starlette(routes=[intake_keys_route(lambda: KEYS, SystemClock(), SIGNER)]), "127.0.0.1", 0) as at:
        yield at.url + PATH


async def dsr(*arguments: str, code: int = 0, **environment: str) -> Result:
    env: dict[str, str | None] = {"DSR_SIGNATURES": "required", "DSR_TRUST_FILE": None, "COLUMNS": "200", **environment}
    done = await asyncio.to_thread(CliRunner().invoke, app, ["keys", "intake", *arguments], env=env)
    assert done.exit_code == code, (done.output, done.exception)
    return done


async def test_the_set_is_shown_as_a_table_and_as_a_file_for_portals(page: str, tmp_path: Path) -> None:
    """From a worker's page, its signature checked; the printed set is one that a portal reads, also from a file."""
    trust = trust_file(tmp_path, SIGNER)
    table = (await dsr(DSR_INTAKE_KEYS=page, DSR_TRUST_FILE=trust)).stdout
    lines = [line for line in table.splitlines() if "intake-" in line]
    assert "intake-b" in lines[0] and "seal to it" in lines[0]
    assert "intake-a" in lines[1] and "may have sealed to it" in lines[1]
    printed = (await dsr("--json", DSR_INTAKE_KEYS=page, DSR_SIGNATURES="off")).stdout
    assert IntakeKeySet.from_json(printed) == KEYS
    file = tmp_path / "keys.json"
    file.write_text(printed)
    assert (await dsr("--json", DSR_INTAKE_KEYS=str(file), DSR_TRUST_FILE=trust)).stdout == printed
    file.write_text(KEYS.signed(SIGNER, at=SystemClock().now(), until=SystemClock().now() + timedelta(hours=1)))
    assert (await dsr("--json", DSR_INTAKE_KEYS=str(file), DSR_TRUST_FILE=trust)).stdout == printed


async def test_what_is_not_to_be_believed_or_not_there_says_what_to_do(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 with the setting and the remedy; a set in clear from another machine is refused before it is fetched."""
    monkeypatch.setattr(intake_keys, "_PATIENCE_SECONDS", 0.5)
    stranger = trust_file(tmp_path, SigningKey.new(ORCHESTRATOR))
    assert "signer_unknown" in (await dsr(code=2, DSR_INTAKE_KEYS=page, DSR_TRUST_FILE=stranger)).output
    assert "use https" in (await dsr(code=2, DSR_INTAKE_KEYS="http://worker.example.org/v1/intake-keys")).output
    missing = (await dsr(code=2, DSR_INTAKE_KEYS=str(tmp_path / "none.json"))).output
    assert "DSR_INTAKE_KEYS" in missing and "FileNotFoundError" in missing
    (tmp_path / "odd.json").write_text("{}")
    assert "no JWK set" in (await dsr(code=2, DSR_INTAKE_KEYS=str(tmp_path / "odd.json"))).output
    gone = (await dsr(code=2, DSR_INTAKE_KEYS="http://127.0.0.1:1/v1/intake-keys")).output
    assert "is a worker running" in gone
    assert "answered 404" in (await dsr(code=2, DSR_INTAKE_KEYS=page.replace("intake-keys", "nothing"))).output


async def test_the_store_tells_which_private_halves_are_there(tmp_path: Path) -> None:
    """Names and moments of every key there was; never a key."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    engine = make_engine(url)
    schema.upgrade(engine)
    store = SqlStore(engine)
    for number, kid in enumerate(("intake-a", "intake-b")):
        await store.add_service_key(ServiceKey(kid, "intake", NOW + timedelta(days=number), b"{}", b"WRAPPED"))
    await store.add_service_key(ServiceKey("grouping", "grouping", NOW, None, b"WRAPPED"))
    await store.destroy_service_key("intake-a", NOW + timedelta(days=40))
    await store.aclose()
    table = (await dsr("--all", DSR_STORE_URL=url)).stdout
    assert "destroyed 2026-04-14T09:00:00+00:00" in table and "there" in table
    assert "grouping" not in table and "WRAPPED" not in table
    found = json.loads((await dsr("--all", "--json", DSR_STORE_URL=url)).stdout)
    assert [(key["kid"], key["destroyed_at"] is not None) for key in found] == [("intake-a", True), ("intake-b", False)]

"""`dsr keys rewrap`: every stored key comes under the current one, whoever else writes and whenever it is ended."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys, rewrapped
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.ports import Change
from orchestrator.shell.intake_keys import keep_intake_key
from orchestrator.shell.rewrapping import BATCH, Rewrapped, rewrap
from orchestrator.shell.service_keys import grouping_key
from schemas.errors import ConfigurationError
from schemas.intake import IntakeKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind
from tests.simulation.store import Database, SimStore

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
PERSON = SubjectData(identifiers={IdentifierKind.EMAIL: ("person@example.org",)})
INTAKE = IntakeKey("intake-1", b"i" * 32)


def _request(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def _keys(encryption: KeyEncryption) -> RequestKeys:
    return RequestKeys(encryption, intake={}, grouping=RequestKeys(encryption, intake={}, grouping=None).new_request_key())  # type: ignore[arg-type] # not asked for


async def _fill(store: SqlStore | SimStore, number: int) -> dict[str, bytes]:
    """Store so many identities and both kinds of installation keys under the old key; return each request's key."""
    encryption = KeyEncryption.from_text(OLD)
    keys = _keys(encryption)
    made = {_request(count): keys.new_request_key() for count in range(number)}
    sealed = {request: keys.seal_stored(request, key, [PERSON]) for request, key in made.items()}
    await store.commit(Change(worker="w1", now=NOW, sealed=sealed))
    await grouping_key(store, encryption, NOW)
    await keep_intake_key(store, encryption, INTAKE, NOW)
    return {request: key.unsafe_bytes() for request, key in made.items()}


async def _opened(store: SqlStore | SimStore, text: str) -> dict[str, bytes]:
    """Open everything with these keys alone; return each request's key."""
    encryption = KeyEncryption.from_text(text)
    keys, found, after = _keys(encryption), {}, ""
    while page := await store.identities_after(after, BATCH):
        after = max(page)
        for request, stored in page.items():
            key, people = keys.open_stored(request, stored)
            assert people == (PERSON,)
            found[request] = key.unsafe_bytes()
    await grouping_key(store, encryption, NOW)
    (wrapped,) = [key.wrapped for key in await store.service_keys() if key.kid == INTAKE.kid and key.wrapped]
    assert encryption.unwrap(wrapped, f"intake:{INTAKE.kid}") == INTAKE.unsafe_bytes()
    return found


def _at(url: str) -> SqlStore:
    engine = make_engine(url)
    schema.upgrade(engine)
    return SqlStore(engine)


def _command(url: str, keys: str, *arguments: str) -> list[str]:
    return ["env", f"DSR_STORE_URL={url}", f"DSR_KEY_ENCRYPTION_KEY={keys}", sys.executable, "-m", "orchestrator.cli",
            "keys", "rewrap", *arguments]  # fmt: skip


def _run(url: str, keys: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(url, keys, *arguments), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.mark.parametrize("where", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_everything_opens_with_the_new_key_alone(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> None:
    """Several batches and the installation's own keys; a second run finds nothing to do."""
    url = str(request.getfixturevalue("postgres_url")) if where == "postgresql" else f"sqlite:///{tmp_path / 'store.sqlite'}"
    store = _at(url)
    made = await _fill(store, BATCH * 2 + 7)
    with pytest.raises(ConfigurationError, match="needs the key named"):
        await _opened(store, NEW)
    done = await asyncio.to_thread(_run, url, f"{NEW} {OLD}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrapped anew: {len(made) + 2}; under an older key: none\n")
    assert "may be taken out" in done.stdout and NEW not in done.stdout + done.stderr
    assert await _opened(store, NEW) == made
    again = await asyncio.to_thread(_run, url, NEW, "--json")
    assert json.loads(again.stdout) == {"rewrapped": 0, "left": 0, "older_keys_needed": False, "damaged": []}
    await store.aclose()


async def test_a_missing_old_key_is_named_and_nothing_is_lost(url: str) -> None:
    """Without the key that wrapped them nothing is touched, and the exit code says that it was not done."""
    store = _at(url)
    made = await _fill(store, 3)
    done = await asyncio.to_thread(_run, url, NEW)
    assert done.returncode == 2
    assert "add it behind the current one" in done.stderr
    assert await _opened(store, OLD) == made
    await store.aclose()


async def test_killed_in_the_middle_it_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    """What is done stays done, every key opens all the time, and the next run does the rest."""
    store = _at(url)
    made = await _fill(store, BATCH * 8)
    running = await asyncio.to_thread(subprocess.Popen, _command(url, f"{NEW} {OLD}"), stdout=subprocess.DEVNULL)
    with closing(sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None, timeout=30)) as lock:
        first = await store.identities([_request(0)])
        ends = time.monotonic() + 30
        while await store.identities([_request(0)]) == first:
            assert time.monotonic() < ends, "no batch was written"
        lock.execute("BEGIN IMMEDIATE")  # the next batch waits for it, and never comes
        os.kill(running.pid, signal.SIGKILL)
        running.wait(10)
        lock.execute("ROLLBACK")
    assert await _opened(store, f"{NEW} {OLD}") == made
    with pytest.raises(ConfigurationError, match="needs the key named"):
        await _opened(store, NEW)
    done = await asyncio.to_thread(_run, url, f"{NEW} {OLD}", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and 0 < result["rewrapped"] < len(made) and result["left"] == 0
    assert await _opened(store, NEW) == made
    await store.aclose()


class _Busy(SimStore):
    """A worker saves the same request under the old key between every reading and every exchange."""

    saved = 0

    async def identities_after(self, request: str, limit: int) -> dict[str, bytes]:
        page = await super().identities_after(request, limit)
        if _request(0) in page:
            keys = _keys(KeyEncryption.from_text(OLD))
            self.saved += 1
            found = [PERSON] * self.saved
            self.database.identities[_request(0)] = keys.seal_stored(_request(0), keys.new_request_key(), found)
        return page


async def test_somebody_who_still_wraps_under_the_old_key_is_told_of() -> None:
    """What is saved meanwhile is never overwritten; the old key must stay then."""
    store = _Busy(Database())
    await _fill(store, 3)
    both = KeyEncryption.from_text(f"{NEW} {OLD}")
    result = await rewrap(store, both, lambda request, stored: rewrapped(both, request, stored))
    assert result == Rewrapped(done=4, left=1)
    _, found = _keys(both).open_stored(_request(0), store.database.identities[_request(0)])
    assert len(found) == store.saved > 1


async def test_a_damaged_row_is_named_and_stops_nothing_else(url: str) -> None:
    """A changed key, one that was moved, and a name that no key has: the others are wrapped anew, and the exit code tells."""
    store = _at(url)
    made = await _fill(store, 7)
    stored = await store.identities(made)
    moved, renamed, changed = (_request(number) for number in (1, 2, 3))
    wrong = {
        moved: stored[_request(4)],
        renamed: b'{"kid":"kek-00000000"' + stored[renamed][21:],
        changed: stored[changed][:90] + bytes([stored[changed][90] ^ 1]) + stored[changed][91:],
    }
    assert await store.exchange({name: (stored[name], bad) for name, bad in wrong.items()}, {}) == 3
    done = await asyncio.to_thread(_run, url, f"{NEW} {OLD}")
    assert done.returncode == 1, done.stderr
    for request in made:
        assert (f"damaged: {request}" in done.stdout) == (request in wrong)
    now = {request: body for request, body in (await store.identities(made)).items() if request in wrong}
    assert now == wrong
    await store.exchange({name: (bad, stored[name]) for name, bad in wrong.items()}, {})
    assert (await asyncio.to_thread(_run, url, f"{NEW} {OLD}")).returncode == 0
    assert await _opened(store, NEW) == made
    await store.aclose()

"""One installation of its own on a broker: topics, a store, workers and connectors as supervised processes.

Room rules: starts and joins; hits nobody and judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import make_engine
from orchestrator.adapters.topics import apply
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.stage import free_port
from schemas.topics import Topics, manifest
from schemas.trust import SigningKey
from tests.chaos.outside import address
from tests.chaos.supervised import Hit, Supervised
from tests.integration.worker_kit import KEY, SPEAKERS, SYSTEMS, settings_for, signing
from tests.privacy.canary import contents, disguises, leaks_in

__all__ = ["WORKER", "Stage", "audit", "readable", "staged"]

CANARIES = "canaries.txt"

WORKER = ("-m", "orchestrator.cli", "worker")


@dataclass(slots=True)
class Stage:
    """What runs, by name."""

    bootstrap: str
    topics: Topics
    folder: Path
    workers: dict[str, Supervised]
    connectors: Supervised
    #: Who speaks, with their keys; None with signatures off.
    keyring: Keyring | None
    #: The workers' addresses, separated by commas.
    desks: str

    def key(self, principal: str) -> SigningKey:
        """Return the key of one who speaks; with signatures."""
        assert self.keyring is not None
        return self.keyring.key(principal)


@contextlib.asynccontextmanager
async def staged(
    bootstrap: str,
    folder: Path,
    store_url: str,
    on_hit: Callable[[Hit], None],
    *,
    workers: int = 1,
    command: tuple[str, ...] = WORKER,
    signatures: bool = False,
    replication: int = 1,
    played: Sequence[str] = SYSTEMS,
    **changes: object,
) -> AsyncIterator[Stage]:
    """Prepare an installation, not yet started; end all its processes at the end of the block.

    `played`: the systems that the responding connectors answer for.
    """
    topics = Topics(prefix=f"chaos{secrets.token_hex(4)}")
    await apply(bootstrap, manifest(SYSTEMS, prefix=topics.prefix), replication=replication)
    schema.upgrade(make_engine(store_url))
    keyring = Keyring(folder / f"{topics.prefix}-keys", SPEAKERS) if signatures else None
    if keyring is not None:
        changes |= signing(keyring)
    made: dict[str, Supervised] = {}
    ports = [free_port() for _ in range(workers)]
    for number in range(1, workers + 1):
        name = f"worker-{number}"
        environment = _environment(
            folder,
            bootstrap,
            topics,
            **{
                "store_url": store_url,
                "worker_id": name,
                "http_port": ports[number - 1],
                "datadir": folder / name,
                "batch_records": 50,
                "adopt_after_seconds": 3.0,
                # Killed so often, a worker would always be careful, and its batches of one record: only the second one is.
                "careful_after": 2 if number == 2 else 0,
                "log_level": "WARNING",
                **changes,
            },
        )
        made[name] = Supervised(name, command, environment, folder / f"{topics.prefix}-{name}.log", on_hit)
    speakers, desks = str(keyring.folder) if keyring else "-", ",".join(f"http://127.0.0.1:{port}" for port in ports)
    responder = ("-m", "tests.chaos.responder", bootstrap, topics.prefix, speakers, desks, *played)
    connectors = Supervised("connectors", responder, {}, folder / f"{topics.prefix}-connectors.log", on_hit)
    try:
        yield Stage(bootstrap, topics, folder, made, connectors, keyring, desks)
    finally:
        for one in (*made.values(), connectors):
            await one.close()


def _environment(folder: Path, bootstrap: str, topics: Topics, **changes: object) -> dict[str, str]:
    settings = settings_for(folder, bootstrap, topics, **changes)
    given = {f"DSR_{k.upper()}": str(v) for k, v in settings.model_dump(exclude_unset=True).items() if not k.endswith("_key")}
    return given | {"DSR_KEY_ENCRYPTION_KEY": KEY, "DSR_LOG_FORMAT": "json"}


def audit(stage: Stage, people: int) -> dict[str, Any]:
    """Return what `dsr audit --json` says of the installation's log. Blocks.

    Its people's addresses are the canaries; where everybody signs, signatures are checked as well.
    """
    canaries = stage.folder / CANARIES
    canaries.write_text("\n".join(address(number) for number in range(people)))
    command = [sys.executable, "-m", "orchestrator.cli", "audit", "--json", "--canaries", str(canaries)]
    command += ["--bootstrap", stage.bootstrap, "--prefix", stage.topics.prefix]
    command += ["--trust", str(stage.keyring.trust_file)] if stage.keyring is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"dsr audit could not be made: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def readable(stage: Stage) -> list[str]:
    """Return where one of its people can be read: in the broker's files, SQLite's, logs, journals. Blocks."""
    marker = address(0).partition("-0@")[0]
    return sorted(leaks_in(contents(stage.folder), disguises(marker), but=(CANARIES,)))

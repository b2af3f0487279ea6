"""The processes of a measurement: players and workers, started and stopped here.

Room rules: our own processes only; one that ends by itself is an error with its last words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from orchestrator.adapters.clock import SystemClock
from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.bench.players import DESK_VARIABLE, KEYS_VARIABLE, SIZES_VARIABLE
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.stage import free_port
from orchestrator.shell.intake_keys import keep_intake_key
from schemas.intake import IntakeKey
from schemas.registry import Registry
from schemas.topics import Topics
from schemas.trust import ORCHESTRATOR

__all__ = ["Cpu", "Running", "player", "registry_of", "worker"]


def registry_of(systems: list[str]) -> Registry:
    """Return the registry that `worker` writes for these systems."""
    return Registry.model_validate(
        {
            "version": "bench",
            "controller": {"title": "Bench", "zone": "Europe/Amsterdam", "calendar": "NL", "regime": "eu.gdpr"},
            "portals": [{"id": "bench", "title": "Bench", "owner": "Bench"}],
            "systems": [
                {"id": system, "title": f"System {system}", "role": "processor", "owner": "Bench", "connector": "bench",
                 "rights": ["access", "objection"], "needs": [{"kind": "email"}]}
                for system in systems
            ],
        }
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Processor seconds of a process: its main thread (decides, encodes, publishes) and all others (Kafka's fetching, SQL)."""

    main: float
    others: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(main=self.main - other.main, others=self.others - other.others)

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(main=self.main + other.main, others=self.others + other.others)


@dataclass(slots=True)
class Running:
    """A process that runs for a measurement."""

    process: subprocess.Popen[bytes]
    name: str
    log: Path
    port: int = 0

    def check(self) -> None:
        """Raise with its last words if it has ended."""
        if self.process.poll() is not None:
            last = self.log.read_bytes()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{self.name} ended with {self.process.returncode} during the measurement:\n{last}")

    async def ready(self, *, within_seconds: float = 120.0) -> None:
        """Wait until it works: a player has said so, a worker answers /readyz. Raises `TimeoutError`."""
        async with asyncio.timeout(within_seconds):
            while not await asyncio.to_thread(self._is_ready):
                self.check()
                await asyncio.sleep(0.02)

    def _is_ready(self) -> bool:
        if not self.port:
            return b"ready" in self.log.read_bytes()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                return True
        except OSError:
            return False

    @property
    def resident_mb(self) -> float:
        """Return the memory it holds now, in MB."""
        return self._status_mb("VmRSS")

    @property
    def peak_mb(self) -> float:
        """Return the most memory it has held since it started, in MB."""
        return self._status_mb("VmHWM")

    def _status_mb(self, name: str) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    def cpu_seconds(self) -> Cpu:
        """Return the processor time it has taken since it started."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        by_thread = {int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks.iterdir()}
        main = by_thread.pop(self.process.pid)
        return Cpu(main=main, others=sum(by_thread.values()))

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series, as its /metrics page shows them; 0 if there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextlib.asynccontextmanager
async def player(
    role: str,
    bootstrap: str,
    topics: Topics,
    systems: list[str],
    folder: Path,
    *,
    keyring: Keyring | None = None,
    desk_ports: Sequence[int] = (),
    sizes: Mapping[str, int] | None = None,
) -> AsyncIterator[Running]:
    """Run a player of `orchestrator.bench.players` while the block runs.

    With signing keys its reports are signed; with the ports of workers it hears from them, or asks them for, every order's key.
    """
    keys = {} if keyring is None else {KEYS_VARIABLE: str(keyring.folder)}
    if desk_ports:
        keys[DESK_VARIABLE] = ",".join(f"http://127.0.0.1:{port}" for port in desk_ports)
    if sizes:
        keys[SIZES_VARIABLE] = json.dumps(dict(sizes))
    command = [sys.executable, "-m", "orchestrator.bench.players", role, bootstrap, topics.prefix, *systems]
    async with _process(command, role, keys, folder / f"{topics.prefix}-{role}.log") as running:
        yield running


@contextlib.asynccontextmanager
async def worker(
    bootstrap: str,
    topics: Topics,
    systems: list[str],
    folder: Path,
    *,
    key: str,
    intake: IntakeKey,
    store_url: str,
    number: int = 0,
    keyring: Keyring | None = None,
    port: int | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Running]:
    """Run a worker of the product while the block runs; without signing keys it has signatures off.

    `key` wraps its keys; `intake` is put into its store before, so that requests can be sealed before it starts; `more` are
    settings beside the bench's own.
    """
    await _keep(store_url, key, intake)
    registry = folder / f"{topics.prefix}.yaml"
    # JSON is YAML.
    registry.write_text(registry_of(systems).model_dump_json(exclude_defaults=True))
    port = port or free_port()
    environment = {
        "DSR_KAFKA_BOOTSTRAP": bootstrap,
        "DSR_TOPIC_PREFIX": topics.prefix,
        "DSR_REGISTRY": str(registry),
        "DSR_STORE_URL": store_url,
        "DSR_KEY_ENCRYPTION_KEY": key,
        "DSR_WORKER_ID": f"bench-{number}",
        "DSR_DATADIR": str(folder / "data"),
        "DSR_HTTP_PORT": str(port),
        "DSR_LOG_FORMAT": "json",
        "DSR_LOG_LEVEL": "WARNING",
        **_signatures(keyring),
        **more,
    }
    command = [sys.executable, "-m", "orchestrator.cli", "worker", "--upgrade-store"]
    async with _process(command, "worker", environment, folder / f"{topics.prefix}-worker-{number}.log") as running:
        running.port = port
        yield running


async def _keep(store_url: str, key: str, intake: IntakeKey) -> None:
    engine = make_engine(store_url)
    await asyncio.to_thread(schema.upgrade, engine)
    store = SqlStore(engine)
    await keep_intake_key(store, KeyEncryption.from_text(key), intake, SystemClock().now())
    await store.aclose()


def _signatures(keyring: Keyring | None) -> dict[str, str]:
    if keyring is None:
        return {"DSR_SIGNATURES": "off"}
    return {"DSR_TRUST_FILE": str(keyring.trust_file), "DSR_SIGNING_KEY_FILE": str(keyring.file(ORCHESTRATOR))}


@contextlib.asynccontextmanager
async def _process(command: list[str], name: str, environment: dict[str, str], log: Path) -> AsyncIterator[Running]:
    with log.open("ab") as out:
        # We read the metrics of what we start, on this machine, and send no token.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSR_METRICS_TOKEN")}
        process = subprocess.Popen(command, env={**inherited, **environment}, stdout=out, stderr=out)  # noqa: ASYNC220 - our own
        try:
            yield Running(process, name, log)
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(asyncio.to_thread(process.wait), 20)
            except TimeoutError:
                process.kill()
                process.wait()

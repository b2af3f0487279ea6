"""A real Prometheus scrapes our pages, loads our rules and answers our panels."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from connectors.sdk.health import app as connector_app
from connectors.sdk.health import served
from connectors.sdk.metrics import ConnectorMetrics
from deploy.observability import promtool
from deploy.observability.alerts import ALERTS
from deploy.observability.dashboards import PANELS
from deploy.observability.thresholds import CONNECTOR_JOB, WORKER_JOB
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway.health import Listening, health_app, serve
from schemas.metric_labels import DaysLeft
from schemas.metrics import CONNECTOR_ORDERS, OUTBOX, QUARANTINED, REQUESTS_OPEN_BY_DAYS_LEFT
from schemas.page_readers import PageReaders
from schemas.vocabulary import QuarantineReason, Right

RULES = Path(__file__).parents[2] / "deploy" / "observability" / "generated" / "alerts.yaml"
TOKEN = "t" * 32
Ask = Callable[..., Awaitable[Any]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, Listening]) -> AsyncIterator[Ask]:
    """Run Prometheus on a free port over the targets; yields a function that asks its API until the answer suits."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": job,
                "authorization": {"type": "Bearer", "credentials_file": "token"},
                "static_configs": [{"targets": [f"{at.host}:{at.port}"]}],
            }
            for job, at in targets.items()
        ],
    }
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    log = folder / "prometheus.log"
    process = started(folder, log)
    try:
        port = await port_of(process)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:

            async def ask(path: str, suits: Callable[[Any], bool], **parameters: str) -> Any:
                last: Any = None
                for _ in range(120):
                    if process.poll() is not None:
                        pytest.fail(f"Prometheus ended: {log.read_text()[-2000:]}")
                    answer = await client.get(path, params=parameters)
                    last = answer.json()
                    if last["status"] == "success" and suits(last["data"]):
                        return last["data"]
                    await asyncio.sleep(0.5)
                return pytest.fail(f"{path} never suited; last: {str(last)[:2000]}")

            yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def started(folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    command = [
        promtool.find("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


async def port_of(process: "subprocess.Popen[bytes]") -> int:
    """Return the port the process listens on, read from the kernel: Prometheus does not say which it got."""
    for _ in range(120):
        if process.poll() is not None:
            break
        port = listening_port(process.pid)
        if port is not None:
            return port
        await asyncio.sleep(0.25)
    return pytest.fail("Prometheus never listened")


def listening_port(pid: int) -> int | None:
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            sockets.add(link.readlink().name)
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].rpartition(":")[2], 16)
    return None


async def test_prometheus_sees_both_rooms_and_our_rules(tmp_path):
    """With the token targets are up, every rule is healthy, an overdue request is pending, and every panel has an answer."""
    registry, connector_registry = CollectorRegistry(), CollectorRegistry()
    worker, connector = WorkerMetrics(registry), ConnectorMetrics(connector_registry)
    worker.set(OUTBOX, 7)
    worker.set(REQUESTS_OPEN_BY_DAYS_LEFT, 2, right=Right.ERASURE, days_left=DaysLeft.OVERDUE)
    worker.count(QUARANTINED, topic="dsr.requests.v1", reason=QuarantineReason.NOT_JSON)
    connector.count(CONNECTOR_ORDERS, 3, system="crm", right=Right.ERASURE)
    readers = PageReaders(TOKEN, "127.0.0.1")
    async with (
        serve(health_app(registry, alive={}, ready={}, readers=readers), "127.0.0.1", 0) as at,
        served(connector_app(connector_registry, lambda: True, readers), host="127.0.0.1", port=0) as connector_port,
        prometheus(tmp_path, {WORKER_JOB: at, CONNECTOR_JOB: Listening("127.0.0.1", connector_port)}) as ask,
    ):
        await ask("/targets", lambda data: [t["health"] for t in data["activeTargets"]] == ["up", "up"])
        found = await ask("/query", lambda data: bool(data["result"]), query="dsr_outbox_records")
        assert found["result"][0]["value"][1] == "7"
        assert found["result"][0]["metric"]["job"] == WORKER_JOB
        found = await ask("/query", lambda data: bool(data["result"]), query="dsr_connector_orders_total")
        assert found["result"][0]["value"][1] == "3"

        def evaluated(data: Any) -> bool:
            rules = [rule for group in data["groups"] for rule in group["rules"]]
            return [rule["name"] for rule in rules] == [alert.name for alert in ALERTS] and all(
                rule["health"] == "ok" for rule in rules
            )

        await ask("/rules", evaluated)

        def told(data: Any) -> bool:
            states = {alert["labels"]["alertname"]: alert["state"] for alert in data["alerts"]}
            return states.items() >= {"DsrRequestOverdue": "pending", "DsrQuarantineGrowing": "firing"}.items()

        found = await ask("/alerts", told)
        assert not {"DsrWorkerDown", "DsrConnectorDown"} & {alert["labels"]["alertname"] for alert in found["alerts"]}
        for panel in (panel for panels in PANELS.values() for panel in panels):
            for query in panel.queries:
                expr = query.expr.replace("$__rate_interval", "5m").replace("$system", ".+")
                await ask("/query", lambda data: data["resultType"] == "vector", query=expr)

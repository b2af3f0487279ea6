"""No process of ours leaves a core dump: its memory holds keys, and people in clear."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from test_connector_runtime import running
from worker_kit import SYSTEMS, World, request, settings_for

from connectors.sdk.loader import build_standin
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from orchestrator.demo.stage import free_port
from schemas.vocabulary import Right
from tests.conftest import FreshKafka

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are read from /proc")

#: Starts with room for a core dump, whatever the shell of the tests allows; prints what is left once the program is over.
PROGRAM = """
import ctypes, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
libc = ctypes.CDLL(None)
before = (hard, libc.prctl(3, 0, 0, 0, 0))
from {module} import main
sys.argv = ["program", "--help"]
try:
    main()
except SystemExit:
    pass
sys.stderr.write(repr((before, resource.getrlimit(resource.RLIMIT_CORE), libc.prctl(3, 0, 0, 0, 0))))
"""


def core_limit(pid: int | str) -> list[str]:
    """Return the soft and the hard limit of a process's core dumps."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


@pytest.mark.parametrize("module", ["orchestrator.cli", "connectors.sdk.cli", "connectors.systems.manual.cli"])
def test_every_program_forbids_them(module: str) -> None:
    """Before anything is read: both limits 0, and not dumpable (PR_GET_DUMPABLE), where it was before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(module=module)], capture_output=True, text=True, timeout=60)
    (hard, was_dumpable), limits, is_dumpable = ast.literal_eval(done.stderr.splitlines()[-1])
    if hard == 0:
        pytest.skip("whoever runs the tests has forbidden core dumps already")
    assert was_dumpable == 1
    assert (limits, is_dumpable) == ((0, 0), 0)


@pytest.mark.kafka
async def test_a_worker_and_a_connector_at_work_have_a_limit_of_nothing(fresh_kafka: FreshKafka, tmp_path: Path) -> None:
    """Looked at from outside, once each of them has done something that takes keys."""
    if core_limit("self")[1] == "0":
        pytest.skip("whoever runs the tests has forbidden core dumps already")
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, http_port=free_port())
    fresh_kafka.keys_url = f"http://127.0.0.1:{settings.http_port}"
    standin, asked = build_standin("hubspot"), request(Right.RECTIFICATION)
    with serve(standin) as url:
        own = {"DSR_HUBSPOT_BASE_URL": url, "DSR_HUBSPOT_TOKEN": TOKEN}
        async with (
            World(fresh_kafka.bootstrap, topics, ("newsletter", "accounts")).running() as world,
            life(settings) as worker,
        ):
            with running("hubspot", fresh_kafka, tmp_path, **own) as connector:
                await world.publish(asked)
                await world.until(lambda: asked.subject_request_id in world.confirmations, 60)
                assert core_limit(worker.process.pid) == ["0", "0"]
                assert core_limit(connector.process.pid) == ["0", "0"]
                assert connector.terminate() == 0

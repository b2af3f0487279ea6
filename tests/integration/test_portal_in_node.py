"""The portal in JavaScript: what it seals and signs is opened and believed. Needs Node and `npm install jose`.

Where they are missing, `tests/schemas/test_schemas_intake.py` has a seal that it made.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.applications import Starlette

from orchestrator.adapters.clock import SystemClock
from orchestrator.gateway.health import serve
from orchestrator.gateway.intake_keys import PATH, intake_keys_route
from schemas.intake import IntakeKey, IntakeKeySet, open_intake
from schemas.requests import SubmitRequest
from schemas.signatures import Verifier, leaf_of
from schemas.trust import ORCHESTRATOR, SigningKey, Trust, portal_principal
from schemas.wire import PORTAL_MESSAGES, decode

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
#: A folder with `node_modules/jose`, if it is not beside the example.
MODULES = Path(os.environ.get("DSR_TEST_NODE_MODULES", EXAMPLES))
NODE = shutil.which("node")
KEY, ORCHESTRA, PORTAL = IntakeKey.new("intake-node"), SigningKey.new(ORCHESTRATOR), SigningKey.new(portal_principal("website"))

needs_node = pytest.mark.skipif(
    NODE is None or not (MODULES / "node_modules" / "jose").exists(),
    reason="no Node with jose: `npm install jose` in a folder that DSR_TEST_NODE_MODULES names",
)


@needs_node
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "plain"])
async def test_what_node_seals_and_signs_is_opened_and_believed(tmp_path: Path, is_signed: bool) -> None:
    """From the page of keys to the record; a set that a stranger signed stops it before anything is sealed."""
    assert NODE is not None
    (tmp_path / "portal.mjs").write_text((EXAMPLES / "portal.mjs").read_text())
    (tmp_path / "node_modules").symlink_to((MODULES / "node_modules").resolve())
    (tmp_path / "portal.jwk").write_text(PORTAL.to_json())
    trust = Trust.of(ORCHESTRA, PORTAL)
    (tmp_path / "trust.json").write_text(json.dumps({"keys": [ORCHESTRA.public(), PORTAL.public()]}))
    (tmp_path / "strange.json").write_text(json.dumps({"keys": [SigningKey.new(ORCHESTRATOR).public()]}))
    keys = IntakeKeySet(keys=(KEY.public,))
    app = Starlette(routes=[intake_keys_route(lambda: keys, SystemClock(), ORCHESTRA)])
    async with serve(app, "127.0.0.1", 0) as at:

        async def run(**more: str) -> subprocess.CompletedProcess[str]:
            env = {"PATH": os.environ["PATH"], "DSR_INTAKE_KEYS": at.url + PATH, "DSR_SIGNING_KEY_FILE": "portal.jwk", **more}
            command = [str(NODE), "portal.mjs", "someone@example.org"]
            return await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
            )

        done = await run(**({"DSR_TRUST_FILE": "trust.json"} if is_signed else {}))
        refused = await run(DSR_TRUST_FILE="strange.json")
    assert done.returncode == 0, done.stderr
    assert refused.returncode != 0 and not refused.stdout
    record = json.loads(done.stdout)
    value, headers = record["value"].encode(), [(name, text.encode()) for name, text in record["headers"].items()]
    message = decode(value, headers, PORTAL_MESSAGES)
    assert isinstance(message, SubmitRequest) and record["key"] == message.subject_request_id
    opened = open_intake(message.sealed, {KEY.kid: KEY}, message.subject_request_id)
    assert json.loads(opened) == {"identifiers": {"email": ["someone@example.org"]}}
    assert abs(message.submitted_at - datetime.now(UTC)) < timedelta(minutes=5)
    leaf = leaf_of("SubmitRequest", "requests", record["key"].encode(), value)
    signature = record["headers"]["dsr-signature"].encode()
    Verifier(trust).verify(leaf, signature, principal=portal_principal("website"), at=datetime.now(UTC))

"""A transit engine to test against: a stand-in that answers as OpenBao 2.7.2 does, and the real thing where `bao` is installed.

The stand-in's answers, statuses and texts included, are those that the real one gave to the questions of these tests.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from orchestrator.gateway.health import serve

__all__ = ["RealVault", "VaultStandIn", "real_vault", "vault_stand_in"]

BAO = shutil.which("bao")


@dataclass
class VaultStandIn:
    """One engine `transit` with one key `dsr`."""

    url: str = ""
    token: str = "s.root"
    versions: list[bytes] = field(default_factory=lambda: [secrets.token_bytes(32)])
    oldest: int = 1
    sealed: bool = False
    #: Statuses that are answered first, one a call.
    busy: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    namespaces: list[str | None] = field(default_factory=list)

    async def rotate(self) -> None:
        """Make a new version."""
        self.versions.append(secrets.token_bytes(32))

    async def refuse_below(self, version: int) -> None:
        """Set min_decryption_version."""
        self.oldest = version

    async def seal(self) -> None:
        """Seal it."""
        self.sealed = True

    async def unseal(self) -> None:
        """Unseal it."""
        self.sealed = False

    async def answer(self, request: Request) -> JSONResponse:
        """Answer one call."""
        path = request.path_params["path"]
        self.asked.append(path)
        self.namespaces.append(request.headers.get("x-vault-namespace"))
        if self.busy:
            return JSONResponse({"errors": ["request path is rate limited"]}, self.busy.pop(0))
        if self.sealed:
            return JSONResponse({"errors": ["Vault is sealed"]}, 503)
        if request.headers.get("x-vault-token") != self.token:
            return JSONResponse({"errors": ["permission denied"]}, 403)
        mount, _, rest = path.partition("/")
        if mount != "transit":
            return JSONResponse({"errors": [f'no handler for route "{path}". route entry not found.']}, 404)
        if not rest.endswith("/dsr"):
            return JSONResponse({"errors": ["encryption key not found"]}, 400)
        if rest == "datakey/wrapped/dsr":
            made = self._wrap(base64.b64encode(secrets.token_bytes(32)))
            return _said({"ciphertext": made, "key_version": len(self.versions)})
        wanted = (await request.json())["batch_input"]
        results = [self._one(rest.split("/")[0], item["ciphertext"]) for item in wanted]
        return _said({"batch_results": results}, 400 if any("error" in result for result in results) else 200)

    def _wrap(self, plain: bytes) -> str:
        nonce = secrets.token_bytes(12)
        body = nonce + AESGCM(self.versions[-1]).encrypt(nonce, plain, None)
        return f"vault:v{len(self.versions)}:{base64.b64encode(body).decode()}"

    def _one(self, operation: str, text: str) -> dict[str, Any]:
        found = re.fullmatch(r"vault:v(\d+):(.+)", text)
        if found is None:
            return {"plaintext": "", "error": "invalid ciphertext: no prefix", "reference": ""}
        version, body = int(found[1]), base64.b64decode(found[2])
        if version < self.oldest:
            why = "ciphertext or signature version is disallowed by policy (too old)"
            return {"plaintext": "", "error": why, "reference": ""}
        try:
            plain = AESGCM(self.versions[version - 1]).decrypt(body[:12], body[12:], None)
        except (InvalidTag, IndexError):
            return {"plaintext": "", "error": "cipher: message authentication failed", "reference": ""}
        if operation == "rewrap":
            return {"ciphertext": self._wrap(plain), "key_version": len(self.versions), "reference": ""}
        return {"plaintext": plain.decode(), "reference": ""}


def _said(data: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse({"request_id": "r", "lease_id": "", "renewable": False, "data": data, "auth": None}, status)


@contextlib.asynccontextmanager
async def vault_stand_in() -> AsyncIterator[VaultStandIn]:
    """Serve the stand-in while the block runs."""
    vault = VaultStandIn()
    route = Route("/v1/{path:path}", vault.answer, methods=["POST"])
    async with serve(Starlette(routes=[route]), "127.0.0.1", 0) as at:
        vault.url = at.url
        yield vault


@dataclass
class RealVault:
    """A development server of OpenBao."""

    url: str
    unseal_key: str
    token: str = "root"

    async def rotate(self) -> None:
        """Make a new version."""
        await self._call("POST", "transit/keys/dsr/rotate")

    async def refuse_below(self, version: int) -> None:
        """Set min_decryption_version."""
        await self._call("POST", "transit/keys/dsr/config", {"min_decryption_version": version})

    async def seal(self) -> None:
        """Seal it."""
        await self._call("PUT", "sys/seal")

    async def unseal(self) -> None:
        """Unseal it."""
        await self._call("PUT", "sys/unseal", {"key": self.unseal_key})

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        async with httpx.AsyncClient(headers={"x-vault-token": self.token}) as client:
            (await client.request(method, f"{self.url}/v1/{path}", json=body or {})).raise_for_status()


@contextlib.contextmanager
def real_vault(folder: Path) -> Iterator[RealVault]:
    """Run `bao server -dev` with a transit key `dsr` while the block runs."""
    assert BAO is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = folder / "bao.log"
    command = [BAO, "server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HOME": str(folder)})
    try:
        url, ends_at = f"http://127.0.0.1:{port}", time.monotonic() + 60
        key = None
        while key is None:
            assert process.poll() is None and time.monotonic() < ends_at, said.read_text()
            key = re.search(r"Unseal Key: (\S+)", said.read_text())
            time.sleep(0.1)
        headers = {"x-vault-token": "root"}
        httpx.post(f"{url}/v1/sys/mounts/transit", json={"type": "transit"}, headers=headers).raise_for_status()
        httpx.post(f"{url}/v1/transit/keys/dsr", json={}, headers=headers).raise_for_status()
        yield RealVault(url, key[1])
    finally:
        process.terminate()
        process.wait(20)

"""Key-encryption keys that Vault's (or OpenBao's) transit engine has wrapped: opened there once, when a process starts.

A line `vault:v1:...` in the key file is such a key: without Vault it opens nothing. One call unwraps all lines; they live in
the process's memory from then on, so no batch waits for Vault and a worker that runs does not need it.

Room rules: one question per call; what Vault says is repeated only as far as the words are its own codes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from schemas.errors import ConfigurationError, StoreUnavailable

__all__ = ["VaultTransit", "is_wrapped"]

_PREFIX = "vault:"
#: Waits between calls of a Vault that does not answer, is sealed or has enough of us, in seconds.
_WAITS = (0.2, 1.0, 3.0, 10.0)
_LATER = frozenset({412, 429, 472, 473})


def is_wrapped(line: str) -> bool:
    """Tell whether a key of the key file is wrapped by Vault."""
    return line.startswith(_PREFIX)


class VaultTransit:
    """One key of one transit engine."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        mount: str = "transit",
        key: str = "dsr",
        namespace: str | None = None,
        ca_file: Path | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """`address` is `https://host:8200`. Raises `ConfigurationError` for a certificate that cannot be read."""
        headers = {"x-vault-token": token, "x-vault-request": "true"}
        try:
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise ConfigurationError(f"DSR_VAULT_CA_FILE cannot be read ({type(error).__name__}): name a PEM file") from None
        self._client = httpx.AsyncClient(
            base_url=f"{address.rstrip('/')}/v1/{mount.strip('/')}",
            headers=headers if namespace is None else {**headers, "x-vault-namespace": namespace},
            verify=context,
            timeout=timeout_seconds,
            follow_redirects=False,
        )
        self._key = key

    async def new_key(self) -> str:
        """Return a new random key-encryption key, wrapped: nobody sees it, not even here."""
        body = await self._ask(f"datakey/wrapped/{self._key}", {"bits": 256})
        return str(_data(body)["ciphertext"])

    async def unwrapped(self, lines: Sequence[str]) -> list[str]:
        """Return the keys in base64, in one call. The caller holds them from here on. Raises as `_ask`, naming the line."""
        return await self._batch("decrypt", lines, "plaintext")

    async def rewrapped(self, lines: Sequence[str]) -> list[str]:
        """Return the lines wrapped by the newest version of Vault's key: the keys in them stay what they are."""
        return await self._batch("rewrap", lines, "ciphertext")

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _batch(self, operation: str, lines: Sequence[str], wanted: str) -> list[str]:
        body = await self._ask(f"{operation}/{self._key}", {"batch_input": [{"ciphertext": line} for line in lines]})
        results = _data(body).get("batch_results")
        if not isinstance(results, list) or len(results) != len(lines):
            raise ConfigurationError(
                "DSR_VAULT_ADDR: what answers there is no transit engine: name Vault, and the engine's mount"
            )
        for number, result in enumerate(results, 1):
            if result.get("error") or not result.get(wanted):
                raise ConfigurationError(
                    f"key no. {number} of the key file does not open in Vault: another key wrapped it, or its version is older"
                    " than min_decryption_version allows; put the line back that `dsr keys vault` printed"
                )
        return [str(result[wanted]) for result in results]

    async def _ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """Return the answer's JSON; a Vault that does not answer is asked again for a while.

        Raises `ConfigurationError` for a refusal, and `StoreUnavailable` if it stays away.
        """
        for wait in (*_WAITS, None):
            try:
                answer = await self._client.post(path, json=question)
                if answer.status_code < 500 and answer.status_code not in _LATER:
                    return self._said(answer)
                said = f"HTTP {answer.status_code}"
            except httpx.HTTPError as error:
                said = type(error).__name__
            if wait is None:
                raise StoreUnavailable(f"Vault did not answer ({said}): is it up and unsealed?")
            await asyncio.sleep(wait)
        raise AssertionError("the last wait is None")

    def _said(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code == 403:
            raise ConfigurationError(
                "DSR_VAULT_TOKEN: Vault refuses it: a new token, or a policy that may update this key's paths"
            )
        if answer.status_code == 404:
            raise ConfigurationError("DSR_VAULT_MOUNT: Vault has no such engine: enable transit there, or name its mount")
        if isinstance(body, dict) and isinstance(body.get("data"), dict):
            return body  # also with 400: some of a batch did not open, and which ones is said inside
        raise ConfigurationError(
            f"DSR_VAULT_KEY: Vault refuses the question (HTTP {answer.status_code}): is there a key of that name?"
        )


def _data(body: Any) -> Mapping[str, Any]:
    data: Mapping[str, Any] = body["data"]
    return data

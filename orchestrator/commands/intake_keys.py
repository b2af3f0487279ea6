"""The intake keys as commands see them: fetched from a worker or a file, or listed from the store.

Room rules: public keys only; no private key is read here, wrapped or not.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from orchestrator.commands.audit import usage
from orchestrator.commands.kafka import waiting
from orchestrator.commands.reading import JsonOutput, print_json
from orchestrator.commands.status import print_table, table_of
from schemas.errors import ConfigurationError, OrchestratorError, ProtocolViolation
from schemas.intake import KEY_SET_TYP, IntakeKeySet, IntakePublicKey
from schemas.portal import intake_key
from schemas.trust import Trust

if TYPE_CHECKING:
    import httpx

__all__ = ["current_intake_key", "intake_command"]

_HERE = ("127.0.0.1", "localhost", "::1")
_SECONDS = 10.0
#: So long a worker that has just been started may take to listen.
_PATIENCE_SECONDS = 10.0


def current_intake_key() -> IntakePublicKey:
    """Return the key that a portal on this machine seals to now, from where DSR_INTAKE_KEYS says.

    With a trust file the set must be signed by the orchestrator. Raises `ConfigurationError`, or `OrchestratorError` when the
    worker does not answer.
    """
    from orchestrator.adapters.clock import SystemClock

    text, trust = _fetched()
    try:
        return intake_key(text, trust=trust, at=SystemClock().now())
    except ProtocolViolation as violation:
        raise ConfigurationError(f"DSR_INTAKE_KEYS: {violation.remedy} ({violation.code})") from None


def _fetched() -> tuple[str, Trust | None]:
    """Return the set as it came, and whose signature it must have, if anybody's."""
    from orchestrator.settings import load_settings

    settings = load_settings()
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    scheme = "http" if settings.http_tls_cert_file is None else "https"
    place = settings.intake_keys or f"{scheme}://{host}:{settings.http_port}/v1/intake-keys"
    trust = None if settings.signatures == "off" else settings.trust()
    if "://" in place:
        return _from_url(place, is_signed=trust is not None), trust
    try:
        text = Path(place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"DSR_INTAKE_KEYS: the file cannot be read ({type(error).__name__})") from None
    # Whoever may write this file may write the trust file beside it: an unsigned one is as good.
    return text, None if text.lstrip().startswith("{") else trust


def _from_url(url: str, *, is_signed: bool) -> str:
    import httpx

    parts = urlsplit(url)
    if not is_signed and parts.scheme != "https" and parts.hostname not in _HERE:
        raise ConfigurationError("DSR_INTAKE_KEYS: use https, or set DSR_TRUST_FILE so that the set's signature is checked")
    headers = {"accept": f"application/{KEY_SET_TYP if is_signed else 'jwk-set+json'}"}
    try:
        with waiting("waiting for a worker to show the intake keys"):
            answer = _when_it_listens(url, headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OrchestratorError(
            f"the intake keys could not be fetched ({type(error).__name__}): is a worker running, and does DSR_INTAKE_KEYS name"
            " its page /v1/intake-keys, or a file?"
        ) from None
    if answer.status_code != 200:
        raise OrchestratorError(f"the page of the intake keys answered {answer.status_code}: look at DSR_INTAKE_KEYS")
    return answer.text


def _when_it_listens(url: str, headers: dict[str, str]) -> httpx.Response:
    import httpx

    ends_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return httpx.get(url, headers=headers, timeout=_SECONDS)
        except httpx.ConnectError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.2)


def intake_command(
    *,
    stored: Annotated[
        bool, typer.Option("--all", help="From the store: every key there was, and whether its private half is still there")
    ] = False,
    as_json: JsonOutput = False,
) -> None:
    """Show the keys that portals seal to, the current one first; with --json as a JWK set, for a portal that takes a file.

    They are fetched from DSR_INTAKE_KEYS, by default from the worker on this machine; with DSR_TRUST_FILE the worker's
    signature is checked. --all reads DSR_STORE_URL instead.

    Example: dsr keys intake --json > intake-keys.json
    """
    with usage():
        if stored:
            _print_stored(as_json=as_json)
        else:
            _print_set(as_json=as_json)


def _print_set(*, as_json: bool) -> None:
    from orchestrator.adapters.clock import SystemClock

    text, trust = _fetched()
    try:
        keys = IntakeKeySet.from_json(text) if trust is None else IntakeKeySet.from_signed(text, trust, at=SystemClock().now())
    except ProtocolViolation as violation:
        raise ConfigurationError(f"DSR_INTAKE_KEYS: {violation.remedy} ({violation.code})") from None
    if as_json:
        print_json(keys.model_dump())
        return
    table = table_of(("kid", "x", "portals"))
    for key in keys.keys:
        table.add_row(key.kid, key.x, "seal to it" if key == keys.current else "may have sealed to it")
    print_table(table)


def _print_stored(*, as_json: bool) -> None:
    from orchestrator.bootstrap import open_store
    from orchestrator.settings import load_settings
    from orchestrator.shell.intake_keys import INTAKE

    async def read() -> list[dict[str, Any]]:
        store = open_store(load_settings(), upgrade=False)
        try:
            keys = [key for key in await store.service_keys() if key.purpose == INTAKE]
        finally:
            await store.aclose()
        return [{"kid": key.kid, "made_at": key.created_at, "destroyed_at": key.destroyed_at} for key in keys]

    found = asyncio.run(read())
    if as_json:
        print_json([{name: at.isoformat() if isinstance(at, datetime) else at for name, at in key.items()} for key in found])
        return
    table = table_of(("kid", "made", "private half"))
    for key in found:
        gone: datetime | None = key["destroyed_at"]
        table.add_row(key["kid"], key["made_at"].isoformat(), f"destroyed {gone.isoformat()}" if gone else "there")
    print_table(table)

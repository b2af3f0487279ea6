"""`dsr blobs`: a portal's key pair for access results, and results that are dropped before they expire.

Room rules: a private key goes to a new file that its owner alone may read, and is never printed.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.audit import usage
from orchestrator.commands.reading import RequestArgument, request_id
from schemas.blobs import BlobSecret
from schemas.errors import ConfigurationError
from schemas.ids import order_id

__all__ = ["StoreFolder", "blobs_app"]

StoreFolder = Annotated[
    Path, typer.Option(help="Folder below which connectors keep results (their DSR_STATE_DIR)", envvar="DSR_STATE_DIR")
]

blobs_app = typer.Typer(help="Access results: the key that they are sealed to, and their end.", no_args_is_help=True)


@blobs_app.command("key")
def key_command(
    out: Annotated[Path, typer.Option(help="New file for the private key; it stays at the portal")],
    kid: Annotated[str | None, typer.Option(help="Name of the key", show_default="its RFC 7638 thumbprint")] = None,
) -> None:
    """Make a portal's key pair: the private JWK goes to a file, the line for the registry is printed.

    Example: dsr blobs key --out website.jwk --kid website-2026
    """
    with usage():
        secret = BlobSecret.generate()
        if kid is not None:
            secret = BlobSecret.from_jwk({**secret.unsafe_jwk(), "kid": kid})
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigurationError("--out: the file exists; a key is never written over: name a new one") from None
        except OSError as error:
            raise ConfigurationError(f"--out: cannot be written ({error.strerror})") from None
        with os.fdopen(descriptor, "w") as file:
            json.dump(secret.unsafe_jwk(), file)
    public = secret.public
    print(f"blob_key: {{kty: {public.kty}, crv: {public.crv}, x: {public.x}, kid: {public.kid}}}")


@blobs_app.command("drop")
def drop_command(request: RequestArgument, store: StoreFolder = Path(".dsr")) -> None:
    """Delete what is kept for a request, before it expires: the person has the data. After a withdrawal connectors do it.

    Looks at what is kept for every system, below --store or in the bucket of DSR_BLOBS_ENDPOINT. What a portal has fetched
    already is its own.

    Example: dsr blobs drop 3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d --store .dsr
    """
    with usage():
        gone = asyncio.run(_dropped(request_id(request), store))
    print(f"{gone} files deleted")


async def _dropped(ident: str, store: Path) -> int:
    from connectors.sdk.blob_stores import BlobSettings, BlobStores
    from connectors.sdk.settings import read

    stores = BlobStores(read(BlobSettings), store)
    try:
        systems = await stores.systems()
        if not systems:
            raise ConfigurationError(
                "--store: no results lie there: give the connectors' DSR_STATE_DIR, or their DSR_BLOBS_ENDPOINT"
            )
        return sum([await stores.of(system).drop(order_id(ident, system)) for system in systems])
    finally:
        await stores.aclose()

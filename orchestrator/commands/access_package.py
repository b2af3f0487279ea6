"""`dsr access-package`: what a portal hands to a person who asked for their data, as one archive.

Room rules: runs where the portal's private key is; the plaintext goes into the archive and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.blobs import StoreFolder
from orchestrator.commands.kafka import current_bootstrap
from orchestrator.commands.reading import Bootstrap, Prefix, RequestArgument, read_request, request_id
from schemas.access_package import build_package, results_of
from schemas.blobs import BlobSecret
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.topics import DEFAULT_PREFIX
from schemas.vocabulary import Language
from schemas.wire import encode

__all__ = ["access_package_command"]


def access_package_command(
    request: RequestArgument,
    *,
    key: Annotated[Path, typer.Option(help="The portal's private JWK, see `dsr blobs key`")],
    out: Annotated[Path, typer.Option(help="New file for the archive")],
    store: StoreFolder = Path(".dsr"),
    language: Annotated[Language, typer.Option(help="Language of the page: that of the request")] = Language.EN,
    confirmation: Annotated[
        Path | None, typer.Option(help="The confirmation as a file", show_default="read from its topic")
    ] = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
) -> None:
    """Fetch, check, open and pack all results of an access or portability request into one archive.

    Each file must be the one that the confirmation names, by size and SHA-256, sealed to this key for this order; one that is
    not, or is missing, ends it without an archive. Exit codes: 0 written, 2 something does not fit.

    Example: dsr access-package 3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d --key website.jwk --out package.zip --language nl
    """
    with usage():
        ident = request_id(request)
        secret = _secret(key)
        told = _confirmation(confirmation, ident, prefix, bootstrap)
        files = asyncio.run(_files(Confirmation.model_validate_json(told), store))
        try:
            package = build_package(told, files, secret, language=language)
        except ProtocolViolation as violation:
            raise ConfigurationError(f"{violation.field}: {violation.remedy}; no archive was written") from None
        _write(out, package)
    print(f"{out}: {len(package)} bytes, {len(files)} files of data, for subject_request_id {ident}")


def _secret(path: Path) -> BlobSecret:
    try:
        jwk = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"--key: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ConfigurationError("--key: not JSON: give the private JWK that `dsr blobs key` wrote") from None
    return BlobSecret.from_jwk(jwk)


def _confirmation(path: Path | None, ident: str, prefix: str, bootstrap: str | None) -> bytes:
    """Return the confirmation's bytes. Raises `ConfigurationError` if there is none, or it is another request's."""
    if path is None:
        dossier = asyncio.run(read_request(bootstrap or current_bootstrap(), topics_of(prefix), ident))
        if dossier.view.confirmation is None:
            raise ConfigurationError("the request is not confirmed yet: `dsr status ID` says what it waits for")
        return encode(dossier.view.confirmation)
    try:
        told = path.read_bytes()
        found = Confirmation.model_validate_json(told).subject_request_id
    except OSError as error:
        raise ConfigurationError(f"--confirmation: cannot be read ({error.strerror})") from None
    except ValueError:
        raise ConfigurationError("--confirmation: not a confirmation: give the record's value, unchanged") from None
    if found != ident:
        raise ConfigurationError("--confirmation: it is another request's")
    return told


async def _files(told: Confirmation, store: Path) -> dict[tuple[str, str], bytes]:
    """Return the sealed files that are there; which of them are missing is the package's to say."""
    from connectors.sdk.blob_stores import BlobSettings, BlobStores
    from connectors.sdk.settings import read

    found = {}
    stores = BlobStores(read(BlobSettings), store)
    try:
        for system, result in results_of(told):
            stored = await stores.of(system).read(result.reference)
            if stored is not None:
                found[system, result.reference] = stored
    finally:
        await stores.aclose()
    return found


def _write(out: Path, package: bytes) -> None:
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError("--out: the file exists: name a new one") from None
    except OSError as error:
        raise ConfigurationError(f"--out: cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(package)

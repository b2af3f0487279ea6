"""One person's access package, made in memory as a portal makes it, and a look at what lies on the disk instead.

Room rules: nothing is written; the plaintext ends with the function.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from connectors.sdk.blobs import FolderOfBlobs, folder_of
from orchestrator.demo.people import Person
from schemas.access_package import build_package, results_of
from schemas.blobs import BlobSecret
from schemas.confirmations import Confirmation
from schemas.wire import encode

__all__ = ["Packed", "pack"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A line to show, and what is wrong, if anything."""

    line: str
    wrong: tuple[str, ...]


async def pack(told: Confirmation, person: Person, folder: Path) -> Packed:
    """Make the package. Raises `ProtocolViolation` if a file is not the one that was confirmed."""
    connectors = folder / "connectors"
    names, page = await _package(told, folder, connectors)
    documents = [name.split("/")[1] for name in names if name.startswith("data/")]
    sealed = sorted(connectors.rglob("*.sealed"))
    words = [word.encode() for word in person.secrets if word]
    leaks = [path for path in sealed if any(word in path.read_bytes() for word in words)]
    wrong = [f"{path.name} holds {person.alias} in clear" for path in leaks]
    if person.email not in page:
        wrong.append(f"the access package of {person.alias} does not show the address")
    if not sealed:
        wrong.append("no results lie on the disk")
    return Packed(
        f"access package for {person.alias}: {len(documents)} documents of {len(set(documents))} systems, "
        f"digests as confirmed; in clear in {len(leaks)} of the {len(sealed)} files on disk",
        tuple(wrong),
    )


async def _package(told: Confirmation, folder: Path, connectors: Path) -> tuple[list[str], str]:
    """Return the names of the package's files, and its page."""
    secret = BlobSecret.from_jwk(json.loads((folder / "portal-keys" / f"{told.portal}.jwk").read_bytes()))
    files = {}
    for system, result in results_of(told):
        stored = await FolderOfBlobs(folder_of(connectors, system), kept_days=1).read(result.reference)
        if stored is not None:
            files[system, result.reference] = stored
    with zipfile.ZipFile(io.BytesIO(build_package(encode(told), files, secret))) as package:
        return package.namelist(), package.read("index.html").decode()

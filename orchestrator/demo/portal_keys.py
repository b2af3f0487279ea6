"""Each portal's key pair: the public half stands in the evening's registry, the private one in a file of the portal's own.

Room rules: the orchestrator and the connectors are given the registry, and never the folder of private keys.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml

from schemas.blobs import BlobSecret
from schemas.registry import Registry

__all__ = ["with_keys"]


def with_keys(registry: Registry, folder: Path) -> tuple[Registry, Path]:
    """Return the registry with a new key for each portal that has none, and the file that it was written to."""
    private = folder / "portal-keys"
    private.mkdir(mode=0o700, parents=True)
    portals = []
    for portal in registry.portals:
        if portal.blob_key is not None:
            portals.append(portal)
            continue
        secret = BlobSecret.generate()
        with os.fdopen(os.open(private / f"{portal.id}.jwk", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(secret.unsafe_jwk(), file)
        portals.append(portal.model_copy(update={"blob_key": secret.public}))
    keyed = registry.model_copy(update={"portals": tuple(portals)})
    path = folder / "registry.yaml"
    path.write_text(yaml.safe_dump(keyed.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True))
    return keyed, path

"""The evening's signing keys: one for everyone who speaks, made at the start, and the trust file that all of them stand in.

Room rules: private keys lie in files that only their owner reads; nothing here is shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from schemas.trust import SigningKey

__all__ = ["Keyring"]


class Keyring:
    """Keys by principal, in memory and in a folder."""

    def __init__(self, folder: Path, principals: Iterable[str]) -> None:
        self.folder = folder
        self._keys = {principal: SigningKey.new(principal) for principal in principals}
        folder.mkdir(parents=True)
        for key in self._keys.values():
            descriptor = os.open(self.file(key.principal), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(key.to_json())
        self.trust_file = folder / "trust.json"
        self.trust_file.write_text(json.dumps({"keys": [key.public() for key in self._keys.values()]}, indent=2))

    def file(self, principal: str) -> Path:
        """Return where a principal's private key lies."""
        return self.folder / f"{principal.replace(':', '-')}.jwk"

    def key(self, principal: str) -> SigningKey:
        """Return the key of a principal of the evening."""
        return self._keys[principal]

    def __len__(self) -> int:
        return len(self._keys)

"""`dsr acl users`: a user at the broker for each principal of the registry, as files that Kafka's own command takes.

Room rules: writes passwords into files of their owner's and nowhere else; none is printed, logged or put on a command line.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterable
from pathlib import Path

from schemas.acl import Holder, principal_name
from schemas.errors import ConfigurationError

__all__ = ["kafka_configs_command", "lay_down"]

_ITERATIONS = 8192
_BYTES = 32


def lay_down(who: Iterable[Holder], folder: Path) -> list[tuple[str, bool]]:
    """Write `<name>.password` and `<name>.scram` for each principal; return the names, and which of them are new.

    A password that is there stays, so that it can be done again when the registry has grown. The second file is what
    `kafka-configs.sh --add-config-file` takes: delete it once the user is made. Both can be read by their owner alone.
    Raises `ConfigurationError` where the folder cannot be written.
    """
    found = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in map(principal_name, who):
            file = folder / f"{name}.password"
            if is_new := not file.exists():
                _write(file, secrets.token_hex(_BYTES))
            _write(folder / f"{name}.scram", f"SCRAM-SHA-512=iterations={_ITERATIONS},password={file.read_text().strip()}\n")
            found.append((name, is_new))
    except OSError as error:
        raise ConfigurationError(f"--out {folder}: cannot be written ({type(error).__name__}): name another folder") from None
    return found


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def kafka_configs_command(name: str, folder: Path) -> str:
    """Return Kafka's own command that makes the user; its address and credentials are left to whoever runs it."""
    words = ["--alter", "--add-config-file", str(folder / f"{name}.scram"), "--entity-type", "users", "--entity-name", name]
    return 'kafka-configs.sh --bootstrap-server "$BROKER" --command-config "$ADMIN" ' + " ".join(map(shlex.quote, words))

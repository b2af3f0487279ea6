"""`dsr verify`: is this confirmation genuine? Offline, with nothing but files and the controller's public keys.

Room rules: reads files; what makes a receipt genuine stands in `schemas.receipts`, what is in the log in `schemas.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.audit import usage
from orchestrator.commands.reading import JsonOutput, print_json
from schemas.checkpoints import verify_logged
from schemas.errors import ConfigurationError, NotVerified
from schemas.receipts import verify_receipt
from schemas.trust import Trust

__all__ = ["content_of", "refusing", "verify_command"]

_EXIT_NOT_VERIFIED = 1


def verify_command(
    receipt: Annotated[Path, typer.Argument(help="The receipt, from `dsr confirmations --receipts`", show_default=False)],
    keys: Annotated[Path, typer.Option(help="JWK set with the orchestrator's public keys", envvar="DSR_TRUST_FILE")],
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Also: its journal is in the log of this one; repeat it, oldest first")
    ] = None,
    proof: Annotated[Path | None, typer.Option(help="With --checkpoint: what `dsr checkpoint prove` wrote")] = None,
    as_json: JsonOutput = False,
) -> None:
    """Check a receipt without broker, database or any key of a person: who signed it, and that nothing was changed since.

    With checkpoints also: the request's journal is in the signed log, which from the first to the last of them only grew.

    Exit codes: 0 genuine, 1 not (the step that failed is named; docs/signatures.md lists them), 2 a file cannot be read.

    Example: dsr verify 8c8ada19-ab7a-4133-81c7-d4e8b3fd7b48.receipt.json --keys jwks.json
    """
    with usage(), refusing(as_json=as_json):
        if (proof is None) != (not checkpoint):
            raise ConfigurationError("--checkpoint and --proof belong together: make the proof with `dsr checkpoint prove`")
        data, trust = content_of(receipt), Trust.from_json(content_of(keys))
        if proof is None:
            verify_receipt(data, trust)
        else:
            verify_logged(data, content_of(proof), [content_of(one) for one in checkpoint or ()], trust)
    if as_json:
        print_json({"verified": True, "step": None, "fault": None})
        return
    print("verified: the orchestrator signed this confirmation, and nothing of it was changed since")
    if proof is not None:
        grew = ", which from the first checkpoint to the last was only appended to" if len(checkpoint or ()) > 1 else ""
        print(f"verified: the entry that closed the request is in the signed log{grew}")


@contextmanager
def refusing(*, as_json: bool) -> Iterator[None]:
    """Say what was not verified, and at which step, and end with exit code 1."""
    try:
        yield
    except NotVerified as fault:
        if as_json:
            print_json({"verified": False, "step": fault.step, "fault": fault.fault})
        else:
            typer.echo(f"not verified: {fault}", err=True)
        raise typer.Exit(_EXIT_NOT_VERIFIED) from None


def content_of(file: Path) -> bytes:
    """Return what a named file holds. Raises `ConfigurationError`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({type(error).__name__}): name a file that exists") from None

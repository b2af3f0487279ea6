"""`dsr verify`: is this confirmation genuine? Offline, with nothing but the receipt and the controller's public keys.

Room rules: reads two files; what makes a receipt genuine stands in `schemas.receipts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.audit import usage
from orchestrator.commands.reading import JsonOutput, print_json
from schemas.errors import ConfigurationError, NotVerified
from schemas.receipts import verify_receipt
from schemas.trust import Trust

__all__ = ["verify_command"]

_EXIT_NOT_VERIFIED = 1


def verify_command(
    receipt: Annotated[Path, typer.Argument(help="The receipt, from `dsr confirmations --receipts`", show_default=False)],
    keys: Annotated[Path, typer.Option(help="JWK set with the orchestrator's public keys", envvar="DSR_TRUST_FILE")],
    as_json: JsonOutput = False,
) -> None:
    """Check a receipt without broker, database or any key of a person: who signed it, and that nothing was changed since.

    Exit codes: 0 genuine, 1 not (the step that failed is named; docs/signatures.md lists them), 2 a file cannot be read.

    Example: dsr verify 8c8ada19-ab7a-4133-81c7-d4e8b3fd7b48.receipt.json --keys jwks.json
    """
    with usage():
        data, trust = _content(receipt), Trust.from_json(_content(keys))
    try:
        verify_receipt(data, trust)
    except NotVerified as fault:
        if as_json:
            print_json({"verified": False, "step": fault.step, "fault": fault.fault})
        else:
            typer.echo(f"not verified: {fault}", err=True)
        raise typer.Exit(_EXIT_NOT_VERIFIED) from None
    if as_json:
        print_json({"verified": True, "step": None, "fault": None})
    else:
        print("verified: the orchestrator signed this confirmation, and nothing of it was changed since")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({type(error).__name__}): name a file that exists") from None

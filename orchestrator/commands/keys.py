"""`dsr keys`: make a signing key, show whose keys a trust file holds and the keys that portals seal to, wrap stored keys anew.

Room rules: a private key goes into a file that only its owner reads, and never to the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.commands.audit import counting, usage
from orchestrator.commands.instants import instant
from orchestrator.commands.intake_keys import intake_command
from orchestrator.commands.reading import JsonOutput, print_json
from orchestrator.commands.status import print_table, table_of
from schemas.blobs import BlobSecret
from schemas.errors import ConfigurationError
from schemas.trust import ORCHESTRATOR, SigningKey, Trust, TrustedKey, valid_principal

__all__ = ["keys_app"]

keys_app = typer.Typer(
    name="keys", help="Make signing keys, look at trust files and at the keys that portals seal to.", no_args_is_help=True
)
keys_app.command("intake")(intake_command)


@keys_app.command()
def new(
    principal: Annotated[
        str, typer.Argument(help="Whose: system:<id>, portal:<id>, operator:<actor> or orchestrator", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the private key", show_default="<principal>.jwk, with a dash for the colon")
    ] = None,
    trust: Annotated[Path | None, typer.Option(help="Trust file to add the public key to; made if it is not there")] = None,
) -> None:
    """Make a signing key: the private half into a file of mode 0600, the public half to the output or into a trust file.

    To rotate, make a second key for the same principal, let its owner sign with it, and end the first one (`dsr keys end`)
    when everything it signed has been read.

    Example: dsr keys new system:crm --trust trust.json
    """
    valid_principal(principal)
    known = _members(trust) if trust is not None and trust.exists() else []
    key = SigningKey.new(principal)
    file = out or Path(f"{principal.replace(':', '-')}.jwk")
    _write_private(file, key.to_json())
    if trust is None:
        print(json.dumps(key.public()))
    else:
        _write_members(trust, [*known, key.public()])
    typer.echo(f"{key.kid} of {principal}: private key in {file}; set DSR_SIGNING_KEY_FILE to it", err=True)
    if trust is None:
        typer.echo(
            "nobody believes it yet: add the printed line to the trust file of each worker with `dsr keys trust`", err=True
        )


@keys_app.command("trust")
def trust_command(
    file: Annotated[
        Path, typer.Argument(help="The line that `dsr keys new` printed; - reads standard input", metavar="[FILE]")
    ] = Path("-"),
    *,
    trust: Annotated[
        Path, typer.Option(help="Trust file to add it to; made if it is not there", envvar="DSR_TRUST_FILE", show_default=False)
    ],
) -> None:
    """Add a public key that its owner sent you to a trust file: what it signs is believed from then on.

    Make sure by another way than the file came that its kid is the owner's: `dsr keys new` named it there. Workers read the
    trust file again within ten seconds of the change.

    Example: dsr keys trust portal-website.public.jwk --trust trust.json
    """
    known = _members(trust) if trust.exists() else []
    member = _public_key(sys.stdin.buffer.read() if file == Path("-") else _read(file), str(file))
    if any(member["kid"] == other["kid"] or member["x"] == other["x"] for other in known):
        raise ConfigurationError(f"{trust} has this key already: see `dsr keys list {trust}`; a key that was ended stays ended")
    _write_members(trust, [*known, member])
    print(f"{member['kid']} of {member['principal']} is in {trust}")


@keys_app.command("quarantine")
def quarantine_command(
    out: Annotated[Path, typer.Option(help="New file for the private key; only who looks into quarantine has it")],
) -> None:
    """Make the operators' key that quarantined records are sealed to: the public JWK is printed, for DSR_QUARANTINE_KEY_FILE.

    To rotate, make another and give workers and connectors its public half; keep this one for a month, as long as quarantine.

    Example: dsr keys quarantine --out quarantine.jwk > quarantine-public.jwk
    """
    with usage():
        secret = BlobSecret.generate()
        _write_private(out, json.dumps(secret.unsafe_jwk()))
    print(secret.public.model_dump_json())
    typer.echo(f"{secret.kid}: private key in {out}; keep it away from workers and connectors", err=True)


@keys_app.command("vault")
def vault_command(
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Print the key file's lines wrapped by the newest version of Vault's key instead")
    ] = False,
) -> None:
    """Print a line for the key file: a new key-encryption key that only Vault (or OpenBao) opens. Reads DSR_VAULT_*.

    Nobody sees the key. Put the line in front of the others and go on as after any new key: `dsr keys rewrap`. With --again the
    keys stay as they are: replace the file by what is printed before you raise min_decryption_version.

    Example: DSR_VAULT_ADDR=https://vault.example.org:8200 DSR_VAULT_TOKEN_FILE=token dsr keys vault > kek.txt
    """
    from orchestrator.adapters.vault import VaultTransit, is_wrapped
    from orchestrator.bootstrap import vault_of
    from orchestrator.settings import load_settings

    async def ask(vault: VaultTransit, lines: list[str]) -> list[str]:
        try:
            if not again:
                return [await vault.new_key()]
            wrapped = [line for line in lines if is_wrapped(line)]
            anew = dict(zip(wrapped, await vault.rewrapped(wrapped), strict=True)) if wrapped else {}
            return [anew.get(line, line) for line in lines]
        finally:
            await vault.aclose()

    with usage():
        settings = load_settings()
        lines = settings.wrapping_keys().split() if again else []
        said = asyncio.run(ask(vault_of(settings), lines))
    for line in said:
        print(line)


@keys_app.command("list")
def list_keys(
    trust: Annotated[Path, typer.Argument(help="The trust file", envvar="DSR_TRUST_FILE", show_default=False)],
    as_json: JsonOutput = False,
) -> None:
    """List the keys of a trust file: whose they are, and from when until when they are believed.

    Example: dsr keys list trust.json
    """
    keys = list(Trust.from_json(_read(trust)))
    if as_json:
        print_json([_document(key) for key in keys])
        return
    table = table_of(("principal", "kid", "believed from", "believed until"))
    for key in keys:
        table.add_row(key.principal, key.kid, _moment(key.valid_from), _moment(key.valid_until))
    print_table(table)


# A kid may begin with a dash, and is no option then.
@keys_app.command("end", context_settings={"ignore_unknown_options": True})
def end_key(
    kid: Annotated[str, typer.Argument(help="Which key, as `dsr keys list` shows it", show_default=False)],
    trust: Annotated[Path, typer.Option(help="The trust file", envvar="DSR_TRUST_FILE", show_default=False)],
    at: Annotated[
        str | None, typer.Option(help="From when on it is believed no more: an instant with an offset", show_default="now")
    ] = None,
) -> None:
    """End a key of a trust file, for one that was stolen or is replaced: what it signed counts until then, for `dsr audit`.

    Workers read the file again within ten seconds of the change, and believe nothing of that key from then on, whenever it
    was signed. An earlier end may be given, such as the day of the theft, and no later one than there is.

    Example: dsr keys end 5RwCXy1p-4eJmrfCcoBqHhWnDXXjfCuGLSnAlp3nIyA --trust trust.json
    """
    from orchestrator.adapters.clock import SystemClock

    members = _members(trust)
    keys = Trust.from_json(_written(members))
    known = keys.key(kid)
    if known is None:
        raise ConfigurationError(f"{trust} has no key of that kid: see `dsr keys list {trust}`")
    # Whole seconds, the earlier one: what is written as "now" must have come when this command is done.
    end = int((instant("--at", at) if at else SystemClock().now()).timestamp())
    if known.valid_until is not None and known.valid_until.timestamp() <= end:
        raise ConfigurationError(f"--at: the key ends already, at {known.valid_until.isoformat()}: an end is not put off")
    if known.principal == ORCHESTRATOR and not _others_sign(keys, kid, end):
        raise ConfigurationError(
            "no other key of the orchestrator's is valid then, and workers would sign what nobody believes: make one"
            " (`dsr keys new orchestrator`), give it to every worker (DSR_SIGNING_KEY_FILE), and end this one after that"
        )
    changed = [{**member, "exp": end} if member["kid"] == kid else member for member in members]
    _write_members(trust, changed)
    print(f"{kid} of {known.principal} ends at {datetime.fromtimestamp(end, UTC).isoformat()}")
    if known.principal == ORCHESTRATOR:
        typer.echo("a worker that still signs with it raises DsrTrustFileRefused: give it the other key", err=True)


def _others_sign(keys: Trust, kid: str, at: int) -> bool:
    return any(key.kid != kid and key.valid_at(datetime.fromtimestamp(at, UTC)) for key in keys.keys_of(ORCHESTRATOR))


@keys_app.command("rewrap")
def rewrap_command(*, as_json: JsonOutput = False) -> None:
    """Wrap every stored key anew under the first key of DSR_KEY_ENCRYPTION_KEY(_FILE); the older ones stand behind it.

    Every worker must have both before (docs/operations.md says in which order). Workers go on meanwhile; ended in the middle,
    run it again. Exit 0: no stored key needs an older key. 1: some still do, or a request's row is damaged. 2: it could not
    be done.

    Example: DSR_KEY_ENCRYPTION_KEY_FILE=kek.txt DSR_STORE_URL=sqlite:///dsr.sqlite dsr keys rewrap
    """
    from orchestrator.bootstrap import rewrap_keys
    from orchestrator.settings import load_settings

    with usage(), counting("looked at", of="identities") as tell:
        result = asyncio.run(rewrap_keys(load_settings(), tell))
    if as_json:
        print_json(
            {"rewrapped": result.done, "left": result.left, "older_keys_needed": bool(result.left), "damaged": result.damaged}
        )
    else:
        print(f"wrapped anew: {result.done}; under an older key: {result.left or 'none'}")
        print(_DROP if not result.left else _REPEAT)
        for request in result.damaged:
            print(f"damaged: {request}: its row opens under no key that is known; restore it from a backup")
    if result.left or result.damaged:
        raise typer.Exit(1)


_DROP = (
    "The older keys may be taken out once every worker runs with the new key first. "
    "Keep them, apart, for as long as you keep a backup of the store from before now."
)
_REPEAT = (
    "Do not take the older keys out: somebody still wraps under one. Start every worker with the new key first, then repeat."
)


def _moment(at: Any) -> str:
    return at.isoformat() if at is not None else "always"


def _document(key: TrustedKey) -> dict[str, Any]:
    since, until = (None if at is None else at.isoformat() for at in (key.valid_from, key.valid_until))
    return {"kid": key.kid, "principal": key.principal, "valid_from": since, "valid_until": until}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({type(error).__name__}): name a file that exists") from None


def _members(trust: Path) -> list[Any]:
    content = _read(trust)
    Trust.from_json(content)
    members: list[Any] = json.loads(content)["keys"]
    return members


def _public_key(content: bytes, where: str) -> dict[str, Any]:
    """Return one public JWK. Raises `ConfigurationError`, which repeats nothing of what was given."""
    try:
        member = json.loads(content)
    except (ValueError, RecursionError):
        member = None
    if not isinstance(member, dict):
        raise ConfigurationError(f"{where}: is no public key: give the line that `dsr keys new` printed")
    if "d" in member:
        raise ConfigurationError(
            f"{where}: this is a private key, and only its owner may have it: have the owner make a new one"
            " and send the line that `dsr keys new` prints"
        )
    Trust.from_json(_written([member]))
    return member


def _write_members(trust: Path, members: list[Any]) -> None:
    text = _written(members)
    Trust.from_json(text)
    _replace(trust, text)


def _written(members: list[Any]) -> str:
    return json.dumps({"keys": members}, indent=2) + "\n"


def _write_private(file: Path, text: str) -> None:
    """Write a new file that nobody else can read, not even for the moment between making and protecting it."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{file} is there already: name another with --out; no key is overwritten") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written ({type(error).__name__}): name another with --out") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")


def _replace(file: Path, text: str) -> None:
    """Put a new content in the place of a file, whole or not at all, for the same readers as before."""
    real = file.resolve()  # a link stays one
    beside = real.with_name(f".{real.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if real.exists():
            before = real.stat()
            beside.chmod(stat.S_IMODE(before.st_mode))
            if (before.st_uid, before.st_gid) != (beside.stat().st_uid, beside.stat().st_gid):
                os.chown(beside, before.st_uid, before.st_gid)
        beside.replace(real)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{file} is as it was: it cannot be replaced ({type(error).__name__}); make the file anew from a copy beside it"
        ) from None

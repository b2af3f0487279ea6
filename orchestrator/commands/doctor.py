"""`dsr doctor`: what is unsafe in a configuration, before anybody relies on it.

It reads settings, registry and trust file as a worker would, and looks at the rights of the files they name. It opens no
connection: `dsr topics check` and `dsr acl check` look at the broker.

Room rules: each check is one small function over what was read, and says what to do; no secret is shown, not even its length.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from shlex import quote
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.adapters.vault import is_wrapped
from orchestrator.commands.reading import counted
from orchestrator.settings import Settings, load_settings
from schemas.broker import LOCAL_HOSTS
from schemas.errors import ConfigurationError
from schemas.page_readers import HOW_TO_SET, TOKEN_VARIABLE
from schemas.registry import Registry
from schemas.trust import ORCHESTRATOR, Trust, portal_principal, system_principal

__all__ = ["DANGER", "NOTICE", "Finding", "Premises", "doctor_command", "findings"]

#: A person's data, or the truth of a record, can reach or come from somebody it should not.
DANGER = "danger"
#: It works, and will hurt one day.
NOTICE = "notice"

_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SOON_DAYS = 30
_LONGEST_ROTATION = timedelta(days=92)


@dataclass(frozen=True, slots=True)
class Finding:
    """One unsafe thing: how bad, which setting, what is wrong, and what to do."""

    severity: str
    setting: str
    wrong: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Premises:
    """What is looked at. `registry` and `trust` are None where there is none."""

    settings: Settings
    registry: Registry | None
    trust: Trust | None
    now: datetime


def findings(premises: Premises) -> tuple[Finding, ...]:
    """Return everything that is unsafe, dangers first. Nothing found does not imply that the broker is configured well."""
    found = [finding for check in _CHECKS for finding in check(premises)]
    return tuple(sorted(found, key=lambda finding: (finding.severity, finding.setting)))


def _broker(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    if _broker_hosts(settings) <= LOCAL_HOSTS:
        return
    if settings.security_protocol in {"PLAINTEXT", "SASL_PLAINTEXT"}:
        yield Finding(
            DANGER,
            "DSR_SECURITY_PROTOCOL",
            f"{settings.security_protocol} to a broker on another machine: passwords and records travel in clear",
            "use SASL_SSL, see docs/security.md",
        )
    elif settings.security_protocol == "SSL" and settings.ssl_cert_file is None:
        yield Finding(
            DANGER,
            "DSR_SECURITY_PROTOCOL",
            "the broker is not told who we are, so no access rule holds",
            "add DSR_SSL_CERT_FILE",
        )
    if settings.replication_factor < 3:
        yield Finding(
            NOTICE,
            "DSR_REPLICATION_FACTOR",
            "a lost broker takes acknowledged records with it",
            "use 3, with 2 in-sync replicas",
        )


def _pages(premises: Premises) -> Iterator[Finding]:
    if premises.settings.http_host in LOCAL_HOSTS:
        return
    if premises.settings.http_tls_cert_file is None:
        yield Finding(
            DANGER,
            "DSR_HTTP_HOST",
            "keys of orders are given out without TLS: whoever listens on the way can open the orders",
            "set DSR_HTTP_TLS_CERT_FILE and DSR_HTTP_TLS_KEY_FILE, or listen on 127.0.0.1 behind a TLS proxy",
        )
    if premises.settings.metrics_token is None and premises.settings.metrics_token_file is None:
        yield Finding(
            NOTICE,
            TOKEN_VARIABLE,
            "there is no token for the pages: /metrics refuses everybody, the monitoring too, and health gives no reasons",
            HOW_TO_SET,
        )


def _page_token(premises: Premises) -> Iterator[Finding]:
    try:
        premises.settings.page_readers()
    except ConfigurationError as error:
        yield Finding(DANGER, TOKEN_VARIABLE, f"no worker starts: {error}", "name another one, or none")


def _store(premises: Premises) -> Iterator[Finding]:
    parts = urlsplit(premises.settings.store_url)
    if parts.scheme.startswith("sqlite"):
        yield from _kept_private("DSR_STORE_URL", Path(premises.settings.store_url.removeprefix("sqlite:///")), "the store")
        return
    if parts.password:
        yield Finding(
            NOTICE,
            "DSR_STORE_URL",
            "the password stands in the address, which shows up in tools",
            "use a password file (PGPASSFILE)",
        )
    if (parts.hostname or "localhost") not in LOCAL_HOSTS and not any(
        mode in parts.query for mode in ("sslmode=verify-full", "sslmode=verify-ca")
    ):
        yield Finding(
            DANGER,
            "DSR_STORE_URL",
            "the database's certificate is not checked: anybody between can read and change what is stored",
            "add sslmode=verify-full",
        )


def _wrapping_key(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    file = settings.key_encryption_key_file
    if file is None:
        if settings.key_encryption_key is None:
            yield Finding(
                DANGER,
                "DSR_KEY_ENCRYPTION_KEY_FILE",
                "there is no key to wrap what is stored: no worker starts",
                "name a file made with `openssl rand -base64 32`",
            )
        return
    if not file.exists():
        yield Finding(DANGER, "DSR_KEY_ENCRYPTION_KEY_FILE", "the file is not there: no worker starts", "put it back")
    store = premises.settings.store_url
    if store.startswith("sqlite") and not _is_wrapped_whole(file):
        folder = Path(store.partition("///")[2]).resolve().parent
        if file.resolve().is_relative_to(folder):
            yield Finding(
                DANGER,
                "DSR_KEY_ENCRYPTION_KEY_FILE",
                "the key lies in the store's folder: a backup of the folder opens itself",
                "keep it, and its backups, somewhere else",
            )


def _is_wrapped_whole(file: Path) -> bool:
    """Tell whether Vault has wrapped every key of the file: then it opens nothing by itself."""
    try:
        lines = file.read_text("utf-8", "replace").split()
    except OSError:
        return False
    return bool(lines) and all(map(is_wrapped, lines))


def _vault(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    file = settings.key_encryption_key_file
    if settings.vault_addr is None:
        return
    place = urlsplit(settings.vault_addr)
    if place.scheme != "https" and (place.hostname or "localhost") not in LOCAL_HOSTS:
        yield Finding(
            DANGER,
            "DSR_VAULT_ADDR",
            "the token and the keys come over the network in clear",
            "use https, and DSR_VAULT_CA_FILE",
        )
    if settings.vault_token is None and settings.vault_token_file is None:
        yield Finding(DANGER, "DSR_VAULT_TOKEN_FILE", "there is no token for Vault: no worker starts", "name the agent's file")
    if file is not None and file.exists() and not _is_wrapped_whole(file):
        yield Finding(
            NOTICE,
            "DSR_KEY_ENCRYPTION_KEY_FILE",
            "a key stands in the file in clear, although Vault could hold it",
            "put what `dsr keys vault` prints in front, run `dsr keys rewrap`, then take the clear one out",
        )


def _files(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    for name, file in _files_of(settings):
        if name.endswith(("KEY_FILE", "PASSWORD_FILE", "SECRET_FILE", "TOKEN_FILE")) and name != "DSR_QUARANTINE_KEY_FILE":
            yield from _kept_private(name, file, "a secret")
        else:
            yield from _kept_from_writers(name, file)
    yield from _kept_private("DSR_DATADIR", settings.datadir, "the worker's folder")


def _files_of(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path) and name != "datadir":
            yield f"DSR_{name.upper()}", value


def _kept_private(setting: str, file: Path, what: str) -> Iterator[Finding]:
    if file.exists() and file.stat().st_mode & _OTHERS_READ:
        yield Finding(
            DANGER, setting, f"{what} can be read by other accounts of this machine", f"chmod go-rwx {quote(str(file))}"
        )


def _kept_from_writers(setting: str, file: Path) -> Iterator[Finding]:
    if file.exists() and file.stat().st_mode & _OTHERS_WRITE:
        yield Finding(DANGER, setting, "other accounts of this machine can change the file", f"chmod go-w {quote(str(file))}")


def _inline_secrets(premises: Premises) -> Iterator[Finding]:
    for name in type(premises.settings).model_fields:
        beside = f"{name}_file"
        if beside in type(premises.settings).model_fields and getattr(premises.settings, name) is not None:
            yield Finding(
                NOTICE,
                f"DSR_{name.upper()}",
                "a secret in the environment is inherited by every child and shown by /proc to its owner",
                f"use DSR_{beside.upper()}",
            )


def _trusted(premises: Premises) -> Iterator[Finding]:
    trust, registry = premises.trust, premises.registry
    if premises.settings.signatures == "off":
        return
    if trust is None:
        yield Finding(
            DANGER,
            "DSR_TRUST_FILE",
            "no signature can be checked: whoever can write a topic is believed",
            "make one with `dsr keys`",
        )
        return
    held = {key.principal for key in trust if key.valid_at(premises.now)}
    wanted = {ORCHESTRATOR}
    if registry is not None:
        wanted |= {system_principal(system.id) for system in registry.active()}
        wanted |= {portal_principal(portal.id) for portal in registry.portals}
    for principal in sorted(wanted - held):
        yield Finding(
            NOTICE,
            "DSR_TRUST_FILE",
            f"{principal} has no key that is valid now",
            f"run `dsr keys new {principal} --trust FILE`, add the key that its owner made (`dsr keys trust`), or remove it",
        )
    known = wanted | {key.principal for key in trust if key.principal.startswith("operator:")}
    for principal in sorted(held - known):
        yield Finding(DANGER, "DSR_TRUST_FILE", f"{principal} is trusted and not in the registry", "take its keys out")
    for key in trust:
        left = None if key.valid_until is None else (key.valid_until - premises.now).days
        if left is not None and 0 <= left < _SOON_DAYS:
            yield Finding(
                NOTICE, "DSR_TRUST_FILE", f"the key {key.kid} of {key.principal} ends in {left} days", "rotate it now"
            )


def _speaking(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    if settings.signatures == "off":
        yield Finding(
            NOTICE if _is_a_laptop(settings) else DANGER,
            "DSR_SIGNATURES",
            "nobody has to sign: whoever reaches a topic is believed, whoever reaches the worker is given keys of open orders",
            "unset it, and make keys with `dsr keys new`",
        )
        return
    from orchestrator.bootstrap import worker_signer

    try:
        worker_signer(settings, premises.trust)
    except ConfigurationError as error:
        remedy = "make one with `dsr keys new orchestrator --trust FILE`"
        if _is_somebody_elses(settings):
            remedy = (
                "run `dsr doctor` in the environment of `dsr worker`: this one is an operator's, a portal's or a connector's"
            )
        yield Finding(DANGER, "DSR_SIGNING_KEY_FILE", f"no worker starts: {error}", remedy)


def _is_somebody_elses(settings: Settings) -> bool:
    """Tell whether the signing key is a good one of another principal than the worker's."""
    try:
        signer = settings.signer()
    except ConfigurationError:
        return False
    return signer is not None and signer.principal != ORCHESTRATOR


def _is_a_laptop(settings: Settings) -> bool:
    """Tell whether nobody but this machine is reached: neither its broker nor its pages."""
    return _broker_hosts(settings) <= LOCAL_HOSTS and settings.http_host in LOCAL_HOSTS


def _broker_hosts(settings: Settings) -> set[str]:
    return {one.rpartition(":")[0].strip("[]") for one in settings.kafka_bootstrap.split(",")}


def _running(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    if settings.fault_point is not None:
        yield Finding(DANGER, "DSR_FAULT_POINT", "the worker will kill itself on purpose", "unset it: it is for tests")
    if settings.log_level == "DEBUG":
        yield Finding(NOTICE, "DSR_LOG_LEVEL", "libraries may write addresses and payloads at this level", "use INFO")
    if not settings.watchdog_seconds:
        yield Finding(NOTICE, "DSR_WATCHDOG_SECONDS", "a worker that is stuck stays healthy to look at", "use 120")


def _intake(premises: Premises) -> Iterator[Finding]:
    settings = premises.settings
    if settings.intake_rotation > _LONGEST_ROTATION:
        yield Finding(
            NOTICE,
            "DSR_INTAKE_ROTATION",
            f"whoever learns one intake key opens what portals sealed in {settings.intake_rotation.days} days",
            f"use {_LONGEST_ROTATION.days} days or less",
        )
    place = urlsplit(settings.intake_keys or "")
    if place.scheme == "http" and (place.hostname or "localhost") not in LOCAL_HOSTS and premises.trust is None:
        yield Finding(
            DANGER,
            "DSR_INTAKE_KEYS",
            "the keys that people are sealed to come over the network in clear, and nobody signs them",
            "use https, or set DSR_TRUST_FILE",
        )


def _quarantine(premises: Premises) -> Iterator[Finding]:
    if premises.settings.quarantine_key_file is None:
        yield Finding(
            NOTICE if _is_a_laptop(premises.settings) else DANGER,
            "DSR_QUARANTINE_KEY_FILE",
            "what is set aside stands in quarantine for a month as it came: a portal that seals nothing names people there",
            "make a key with `dsr keys quarantine`, and set it for workers and connectors",
        )
        return
    try:
        premises.settings.quarantine_key()
    except ConfigurationError as error:
        remedy = "name the public half, which `dsr keys quarantine` printed"
        yield Finding(DANGER, "DSR_QUARANTINE_KEY_FILE", f"no worker starts: {error}", remedy)


def _policy(premises: Premises) -> Iterator[Finding]:
    if premises.registry is None:
        return
    hasty = [
        system.id
        for system in premises.registry.active()
        if set(system.irreversible) & set(system.rights) and not system.four_eyes and not system.cooling_off
    ]
    if hasty:
        yield Finding(
            NOTICE,
            "DSR_REGISTRY",
            f"what cannot be undone happens at once, on one person's word, in {', '.join(hasty)}",
            "set four_eyes or cooling_off where your risk asks for it",
        )


_CHECKS: tuple[Callable[[Premises], Iterator[Finding]], ...] = (
    _broker,
    _pages,
    _page_token,
    _store,
    _wrapping_key,
    _vault,
    _files,
    _inline_secrets,
    _trusted,
    _speaking,
    _running,
    _intake,
    _quarantine,
    _policy,
)


def doctor_command(
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on notices as well")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead")] = False,
) -> None:
    """Say what is unsafe in this configuration: exit 0 if nothing is, 1 if something is.

    Run it in the environment of `dsr worker`: it judges what a worker would read there.

    Example: DSR_TRUST_FILE=trust.json DSR_SIGNING_KEY_FILE=orchestrator.jwk dsr doctor
    """
    premises = _premises()
    found = findings(premises)
    dangers = sum(finding.severity == DANGER for finding in found)
    if as_json:
        print(json.dumps({"dangers": dangers, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        _show(found, dangers)
    if dangers or (strict and found):
        raise typer.Exit(1)


def _premises() -> Premises:
    from orchestrator.adapters.clock import SystemClock
    from orchestrator.bootstrap import load_registry

    settings = load_settings()
    return Premises(settings, load_registry(settings), settings.trust(), SystemClock().now())


def _show(found: tuple[Finding, ...], dangers: int) -> None:
    console = Console(width=None if os.isatty(1) else 128)
    if found:
        table = Table("", "setting", "what is wrong", "what to do", box=None, pad_edge=False)
        for finding in found:
            style = "bold red" if finding.severity == DANGER else "yellow"
            table.add_row(f"[{style}]{finding.severity}[/]", finding.setting, escape(finding.wrong), escape(finding.remedy))
        console.print(table)
    console.print(f"doctor: {counted(dangers, 'danger')}, {counted(len(found) - dangers, 'notice')}")

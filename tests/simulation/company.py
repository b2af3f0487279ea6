"""The company of the simulation: its registries, its keys, its people.

Room rules: data; people live on example.org.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache

from orchestrator.audit.identity import IdentitySearch
from schemas.blobs import BlobKey
from schemas.registry import Controller, Portal, Registry, System
from schemas.sealed import SealingKey
from schemas.subject import Need
from schemas.vocabulary import IdentifierForm, IdentifierKind, Right, Role

__all__ = ["PEOPLE", "ROOT", "canaries", "registry_of", "search"]

ROOT = SealingKey("dev", bytes(range(32)))
PEOPLE = tuple(f"{name}.simulated@example.org" for name in ("ada", "bob", "zoe", "eve", "kim"))
#: Its private half is nowhere: nothing is ever opened here.
_KEY = BlobKey(x="AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", kid="portals-2026")
_EMAIL = (Need(kind=IdentifierKind.EMAIL),)


def _systems(cooling_off: timedelta, four_eyes: bool) -> dict[str, System]:
    crm = System(
        id="crm", title="CRM", role=Role.PROCESSOR, owner="Sales", connector="simulated", rights=tuple(Right), needs=_EMAIL,
        yields=(IdentifierKind.GA_CLIENT_ID,), irreversible=(),
    )  # fmt: skip
    newsletter = System(
        id="newsletter", title="Newsletter", role=Role.PROCESSOR, owner="Marketing", connector="simulated",
        rights=(Right.ACCESS, Right.ERASURE, Right.UNSUBSCRIBE, Right.OBJECTION, Right.RECTIFICATION),
        needs=(Need(kind=IdentifierKind.EMAIL, form=IdentifierForm.LOWER),), cooling_off=cooling_off, four_eyes=four_eyes,
    )  # fmt: skip
    analytics = System(
        id="analytics", title="Analytics", role=Role.PROCESSOR, owner="Marketing", connector="simulated",
        rights=(Right.ERASURE, Right.ACCESS), needs=(Need(kind=IdentifierKind.GA_CLIENT_ID),), after=("crm",),
    )  # fmt: skip
    subsidiary = System(
        id="subsidiary", title="Subsidiary", role=Role.CONTROLLER, owner="Privacy office", connector="simulated",
        rights=(Right.ERASURE, Right.ACCESS, Right.PORTABILITY), needs=_EMAIL,
        patience=timedelta(days=14), after=("newsletter",),
    )  # fmt: skip
    return {system.id: system for system in (crm, newsletter, analytics, subsidiary)}


@cache
def registry_of(names: tuple[str, ...], *, cooling_off: timedelta = timedelta(0), four_eyes: bool = False) -> Registry:
    """Return a registry with these systems."""
    systems = _systems(cooling_off, four_eyes)
    chosen = [
        systems[name].model_copy(update={"after": tuple(other for other in systems[name].after if other in names)})
        for name in names
    ]
    return Registry(
        version="simulated-1",
        controller=Controller(title="Example Company B.V.", zone="Europe/Amsterdam", calendar="NL"),
        portals=(
            Portal(id="website", title="Website", owner="Web team", blob_key=_KEY),
            Portal(id="desk", title="Desk", owner="Care", blob_key=_KEY),
        ),
        systems=tuple(chosen),
    )


def client_id(email: str) -> str:
    """Return the identifier that the CRM knows of a person."""
    return f"GA1.1.{sum(email.encode()) * 7919}.{len(email)}"


def canaries() -> list[str]:
    """Return every text that must not be found outside a process's memory."""
    return [*PEOPLE, *(client_id(email) for email in PEOPLE), "Simulated-Street"]


@cache
def search() -> IdentitySearch:
    """Return the search for them."""
    return IdentitySearch(canaries())

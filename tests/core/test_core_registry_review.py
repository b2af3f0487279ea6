"""What a new version of the registry means, difference by difference."""

from __future__ import annotations

from core_building import COMPANY, CONTACT, registry, system

from orchestrator.core.registry_review import changes, open_ends, stages
from schemas.blobs import BlobKey
from schemas.registry import Portal, Registry
from schemas.vocabulary import IdentifierKind, Right


def _said(old: Registry, new: Registry) -> dict[str, str]:
    return {change.field: f"{change.change}: {change.open_requests}" for change in changes(old, new)}


def test_portals_and_systems_that_come_and_go() -> None:
    """Each says what it means for open requests; a system that no request was sent to means nothing."""
    old = registry(system("crm"), system("plan", status="planned"), system("gone"))
    portals = (old.portals[0], Portal(id="parent", title="Parent", owner="Group"))
    new = registry(system("crm"), system("lake"), system("idea", connector=None)).model_copy(update={"portals": portals})
    said = _said(old, new)
    assert set(said) == {"portals.desk", "portals.parent", "systems.plan", "systems.gone", "systems.lake", "systems.idea"}
    assert "quarantined" in said["portals.desk"] and "no requests yet" in said["portals.parent"]
    assert said["systems.plan"] == "removed: none: no request was sent there"
    assert "none: no request is sent there" in said["systems.idea"] and "still wait for it" in said["systems.gone"]
    assert _said(old, old) == {}


def test_the_keys_of_portals() -> None:
    """A new key says what it means for what is sealed to the old one; a portal without one is named where it matters."""
    keys = [BlobKey(x="AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", kid=kid) for kid in ("one", "two")]
    portals = [(Portal(id="website", title="Website", owner="Web", blob_key=key),) for key in (None, *keys)]
    none, one, two = (registry(system("crm")).model_copy(update={"portals": given}) for given in portals)
    assert _said(none, one)["portals.website.blob_key"].startswith("none -> one: orders that leave from now on")
    assert "keep the old private key" in _said(one, two)["portals.website.blob_key"]
    assert "portals.website.blob_key" in dict(open_ends(none))
    assert "portals.website.blob_key" not in dict(open_ends(one))
    idle = registry(system("crm", Right.ERASURE)).model_copy(update={"portals": portals[0]})
    assert "portals.website.blob_key" not in dict(open_ends(idle))


def test_changed_fields_of_a_system() -> None:
    """Each field says what it means; going out of use and coming into use say it once."""
    old = registry(
        system("crm", Right.ACCESS, holds=("orders",), after=("on", "off")),
        system("on", connector=None, needs=()),
        system("off"),
        system("idea", connector=None, status="planned"),
    )
    new = registry(
        system(
            "crm",
            Right.ERASURE,
            holds=("orders", "notes"),
            needs=(CONTACT,),
            connector="other",
            patience="P9D",
            after=("off", "on"),
        ),
        system("on", needs=()),
        system("off", status="planned"),
        system("idea", connector="test", status="planned"),
    )
    said = _said(old, new)
    assert set(said) == {
        *(f"systems.crm.{field}" for field in ("rights", "holds", "needs", "connector", "patience")),
        "systems.on",
        "systems.off",
        "systems.idea.connector",
    }
    assert said["systems.crm.needs"].startswith("-email(raw) +crm_contact_id(raw)")
    assert said["systems.idea.connector"].startswith("none -> test")
    assert "for people to read" in said["systems.crm.holds"]


def test_changed_controller() -> None:
    """A new name or language concerns confirmations still to come; a new seat moves no date that was told."""
    new = COMPANY.model_copy(
        update={
            "controller": COMPANY.controller.model_copy(
                update={"title": "New", "languages": ("nl",), "zone": "Europe/Brussels"}
            )
        }
    )
    said = _said(COMPANY, new)
    assert "new name" in said["controller.title"] and "new ones" in said["controller.languages"]
    assert "do not move" in said["controller.zone"] and "[en, nl] -> [nl]" in said["controller.languages"]


def test_stages_and_open_ends() -> None:
    """Systems start by stages; what nobody does, or nobody can be found by, is named with what follows from it."""
    book = registry(
        system("crm", Right.ACCESS, yields=(IdentifierKind.CRM_CONTACT_ID,)),
        system("idle", connector=None, yields=(IdentifierKind.COOKIE_ID,)),
        system("none", after=("crm", "idle")).model_copy(update={"rights": ()}),
        system("early", Right.ACCESS, needs=(CONTACT,)),
        system("cookie", Right.ACCESS, needs=({"kind": "cookie_id"},), after=("idle",)),
        system("lost", Right.ACCESS, needs=({"kind": "ip_address"},)),
        system("all", Right.ACCESS, needs=()),
    )
    assert [[member.id for member in stage] for stage in stages(book)] == [["crm", "early", "cookie", "lost", "all"], ["none"]]
    said = [f"{field}: {message}" for field, message in open_ends(book)]
    for words in (
        "systems.idle: has no connector",
        "systems.none.rights: lists no right",
        "systems.none.after: names idle",
        "systems.early.after: waits for none of crm",
        "systems.cookie.needs: cookie_id: yielded only by idle",
        "systems.all.needs: names none",
        "systems.lost.needs: ip_address: yielded by no system",
        "fulfils erasure",
    ):
        assert any(words in line for line in said), words


def test_a_source_behind_two_ways_is_found() -> None:
    """A system that comes after its source by two ways has no open end."""
    book = registry(
        system("crm", yields=(IdentifierKind.CRM_CONTACT_ID,)),
        system("left", after=("crm",)),
        system("right", after=("crm",)),
        system("events", needs=(CONTACT,), after=("left", "right")),
    )
    assert not [field for field, _ in open_ends(book) if "events" in field]

"""The ledger of disclosures against a real SQLite file and a real outbox folder."""

from __future__ import annotations

import base64
import json
import os
import stat
from contextlib import contextmanager
from datetime import date

import httpx
import pytest
from pydantic import SecretStr

from connectors.sdk.perform import perform
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, BOB, ConnectorContract, job_for
from connectors.systems.ledger.client import (
    Disclosure,
    DisclosureGround,
    Notification,
    Outbox,
    notification_binding,
    outbox_key,
)
from connectors.systems.ledger.connector import LedgerSettings, build
from connectors.systems.ledger.standin import LedgerStandIn
from schemas.errors import ConfigurationError, ProtocolViolation, SystemUnavailable
from schemas.sealed import unsafe_reveal
from schemas.subject import FieldChange, SubjectData
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

KEY = base64.b64encode(bytes(range(32))).decode()
MOVED = "ada.new@example.org"


def settings_in(folder, **settings):
    return LedgerSettings(path=folder / "ledger.sqlite", outbox=folder / "outbox", key=KEY, **settings)


def disclosed(person=ADA, recipient="Courier One", **fields):
    identifiers = person.known_by(IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID)
    return {
        "recipient": recipient,
        "disclosed_on": "2026-01-15",
        "categories": ["name", "address"],
        "ground": "contract",
        "identifiers": {kind.value: list(values) for kind, values in identifiers.items()},
        **fields,
    }


class Folder:
    """A ledger in a folder, with what a test wants to know about it."""

    def __init__(self, folder, **settings):
        self.settings = settings_in(folder, **settings)
        self.standin = LedgerStandIn(self.settings)
        self.connector = build(self.settings)

    def plant(self, *rows):
        self.standin.seed({"disclosures": list(rows)})

    async def run(self, right, *, person=ADA, changes=(), **identifiers):
        kinds = identifiers.get("kinds", (IdentifierKind.EMAIL,))
        return await perform(self.connector, job_for(right, person.known_by(*kinds), changes=changes))

    @property
    def outbox(self):
        files = sorted(self.settings.outbox.glob("*"))
        return [Notification.model_validate_json(path.read_bytes()) for path in files]

    def opened(self, notification):
        key = outbox_key(self.settings.sealing_key, notification.recipient)
        binding = notification_binding(notification.notification_id, notification.recipient)
        return SubjectData.model_validate_json(unsafe_reveal(notification.sealed, key, associated=binding))


@pytest.fixture
def ledger(tmp_path):
    return Folder(tmp_path)


class TestLedgerContract(ConnectorContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self._folder = tmp_path

    def open_system(self, clock):
        @contextmanager
        def opened():
            yield Folder(self._folder)

        return opened()

    def connect(self, system):
        return build(system.settings)

    def plant(self, system, person, *, records=1):
        system.plant(*(disclosed(person, f"Courier {n}") for n in range(records)))

    def holds(self, system, person):
        return bool(system.standin.ledger.find(person.known_by(IdentifierKind.EMAIL)))


async def test_access_lists_who_was_given_what_when_and_why(ledger):
    """Every disclosure, court orders included, oldest first; nobody is notified by that."""
    ledger.plant(disclosed(), disclosed(recipient="District Court", ground="court_order", disclosed_on="2025-11-02"))
    result = await ledger.run(Right.ACCESS)
    (export,) = result.exports
    assert result.outcome.count == 2
    assert [row["recipient"] for row in export.content] == ["District Court", "Courier One"]
    assert export.content[1] == {
        "recipient": "Courier One",
        "disclosed_on": "2026-01-15",
        "categories": ["name", "address"],
        "ground": "contract",
        "reference": "",
        "recorded_under": {"email": [ADA.email]},
    }
    assert ledger.outbox == []


async def test_every_recipient_is_told_once_and_opens_only_its_own(ledger):
    """One notification per recipient with all it was given; each opens under that recipient's key alone."""
    ledger.plant(
        disclosed(reference="C-17"), disclosed(disclosed_on="2026-02-01"), disclosed(recipient="Bank Two"), disclosed(BOB)
    )
    changes = (FieldChange(field="last_name", new="King"),)
    result = await ledger.run(Right.RECTIFICATION, changes=changes)
    assert result.outcome.code is OutcomeCode.NOTIFIED
    assert result.outcome.recipients == ("Bank Two", "Courier One")
    told = {notification.recipient: notification for notification in ledger.outbox}
    assert {name: len(n.disclosures) for name, n in told.items()} == {"Bank Two": 1, "Courier One": 2}
    assert [n.reference for n in told["Courier One"].disclosures] == ["C-17", ""]
    assert ledger.opened(told["Bank Two"]) == SubjectData(identifiers={IdentifierKind.EMAIL: (ADA.email,)}, changes=changes)
    bank = told["Bank Two"]
    other = outbox_key(ledger.settings.sealing_key, "Courier One")
    with pytest.raises(ProtocolViolation):
        unsafe_reveal(bank.sealed, other, associated=notification_binding(bank.notification_id, "Bank Two"))


async def test_no_identity_lies_readable_on_the_disk(ledger):
    """Neither the ledger nor the outbox shows a name, an address or an id; both are for their owner only."""
    ledger.plant(disclosed())
    await ledger.run(Right.RECTIFICATION, changes=(FieldChange(field="last_name", new=ADA.last_name),))
    files = [ledger.settings.path, *ledger.settings.outbox.glob("*")]
    assert len(files) == 2
    for path in files:
        content = path.read_bytes().lower()
        assert not [trace for trace in ADA.traces if trace.lower().encode() in content]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.settings.outbox.stat().st_mode) == 0o700


async def test_a_repeated_order_tells_nobody_twice(ledger):
    """After the courier has collected, the same order puts nothing new into the outbox and answers the same."""
    ledger.plant(disclosed())
    first = await ledger.run(Right.RESTRICTION)
    for path in ledger.settings.outbox.glob("*"):
        path.unlink()
    again = await ledger.run(Right.RESTRICTION)
    assert first.outcome == again.outcome
    assert ledger.outbox == []


async def test_a_crash_between_outbox_and_ledger_repeats_the_same_bytes(ledger, monkeypatch):
    """The second attempt writes the same file again: the recipient can tell that it is one notification."""
    ledger.plant(disclosed())
    with monkeypatch.context() as patch:
        patch.setattr("connectors.systems.ledger.client.Ledger.settle", _crash)
        with pytest.raises(SystemUnavailable):
            await ledger.run(Right.ERASURE)
    (path,) = ledger.settings.outbox.glob("*")
    before = path.read_bytes()
    result = await ledger.run(Right.ERASURE)
    assert result.outcome.recipients == ("Courier One",)
    assert [p.read_bytes() for p in ledger.settings.outbox.glob("*")] == [before]


def _crash(*_, **__):
    raise SystemUnavailable("the process died here")


async def test_erasure_cuts_the_tie_and_keeps_the_record(ledger):
    """Afterwards nobody finds the person, and the ledger still says that so many disclosures were made."""
    ledger.plant(disclosed(reference="C-17"), disclosed(BOB))
    await ledger.run(Right.ERASURE)
    assert ledger.standin.ledger.find(ADA.known_by(IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID)) == []
    assert ledger.standin.ledger.counts() == (2, 1)
    assert not [path for path in _files(ledger.settings.path.parent) if b"C-17" in path.read_bytes() and path.suffix != ".json"]
    assert (await ledger.run(Right.ACCESS)).outcome.code is OutcomeCode.NOTHING_HELD
    assert (await ledger.run(Right.ACCESS, person=BOB)).outcome.count == 1


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_what_is_disclosed_after_an_erasure_is_told_by_its_repetition(ledger):
    """A disclosure recorded between two attempts is not lost: its recipient gets a notification of its own."""
    ledger.plant(disclosed())
    await ledger.run(Right.ERASURE)
    ledger.plant(disclosed(disclosed_on="2026-03-04"))
    result = await ledger.run(Right.ERASURE)
    assert result.outcome.recipients == ("Courier One",)
    assert len(ledger.outbox) == 2
    assert (await ledger.run(Right.ACCESS)).outcome.code is OutcomeCode.NOTHING_HELD


async def test_court_orders_are_noted_and_their_receivers_not_told(ledger):
    """Beside recipients they are a note; alone, an erasure is retained and other rights have nobody to tell."""
    ledger.plant(disclosed(recipient="District Court", ground="court_order"))
    alone = await ledger.run(Right.ERASURE)
    assert (alone.outcome.code, alone.outcome.ground, alone.outcome.count) == (OutcomeCode.RETAINED, "art17_3_b", 1)
    assert alone.outcome.until is None
    for right in (Right.RECTIFICATION, Right.RESTRICTION):
        assert (await ledger.run(right)).outcome.reason == "right_not_offered"
    ledger.plant(disclosed())
    beside = await ledger.run(Right.ERASURE)
    assert (beside.outcome.recipients, beside.notes) == (("Courier One",), ("court_order_disclosures_noted",))
    assert [notification.recipient for notification in ledger.outbox] == ["Courier One"]
    assert (await ledger.run(Right.ACCESS)).outcome.count == 1


async def test_the_retention_of_court_orders_has_an_end_where_one_is_set(tmp_path):
    """With a number of days the outcome names the date at which the ground ends."""
    ledger = Folder(tmp_path, court_orders_kept_days=365)
    ledger.plant(disclosed(recipient="District Court", ground="court_order"))
    assert (await ledger.run(Right.ERASURE)).outcome.until == date(2027, 1, 15)


async def test_a_new_address_is_known_from_then_on(ledger):
    """After the address was rectified the next request finds the disclosures under it."""
    ledger.plant(disclosed())
    await ledger.run(Right.RECTIFICATION, changes=(FieldChange(field="email", new=MOVED),))
    found = ledger.standin.ledger.find({IdentifierKind.EMAIL: (MOVED.upper(),)})
    assert [row.disclosure.recipient for row in found] == ["Courier One"]


async def test_one_disclosure_found_by_two_identifiers_is_one(ledger):
    """Address and customer number lead to the same record, which is told and listed once."""
    ledger.plant(disclosed())
    kinds = (IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID)
    assert (await ledger.run(Right.ACCESS, kinds=kinds)).outcome.count == 1
    await ledger.run(Right.ERASURE, kinds=kinds)
    assert len(ledger.outbox[0].disclosures) == 1


async def test_an_outbox_that_takes_nothing_is_retried_later(ledger):
    """Nothing is called notified, and the ledger keeps its ties, until the notification lies there."""
    ledger.plant(disclosed())
    ledger.settings.outbox.write_text("a file where the folder should be")
    with pytest.raises(SystemUnavailable, match="OUTBOX"):
        await ledger.run(Right.ERASURE)
    with pytest.raises(ConfigurationError, match="OUTBOX"):
        await ledger.connector.check()
    ledger.settings.outbox.unlink()
    assert (await ledger.run(Right.ERASURE)).outcome.recipients == ("Courier One",)


async def test_a_half_written_notification_is_never_seen(ledger, monkeypatch):
    """A courier that looks while we write sees the whole notification or none."""
    ledger.plant(disclosed())
    monkeypatch.setattr("connectors.systems.ledger.client.os.fsync", _full_disk)
    with pytest.raises(SystemUnavailable):
        await ledger.run(Right.ERASURE)
    assert list(ledger.settings.outbox.glob("ntf_*")) == []
    assert Outbox(ledger.settings.outbox, ledger.settings.sealing_key).waiting() == 0


def _full_disk(_):
    raise OSError


async def test_a_file_that_is_no_ledger_is_said_so(ledger):
    """A damaged file is a configuration error that names the setting."""
    ledger.settings.path.write_bytes(os.urandom(4096))
    with pytest.raises(ConfigurationError, match="DSR_LEDGER_PATH"):
        await ledger.run(Right.ACCESS)


async def test_another_key_finds_nobody(tmp_path):
    """The file alone is not enough: identifiers match under the ledger's own key only."""
    ledger = Folder(tmp_path)
    ledger.plant(disclosed())
    stranger = build(ledger.settings.model_copy(update={"key": _secret(b"x" * 32)}))
    result = await perform(stranger, job_for(Right.ACCESS, ADA.known_by(IdentifierKind.EMAIL)))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD


def _secret(raw):
    return SecretStr(base64.b64encode(raw).decode())


def test_the_control_paths_plant_and_show(tmp_path):
    """The stand-in records by HTTP what the connector then finds in the file, and shows the outbox as it lies there."""
    ledger = Folder(tmp_path)
    with serve(ledger.standin) as url:
        assert httpx.post(f"{url}/__seed__", json={"disclosures": [disclosed()]}).status_code == 204
        state = httpx.get(f"{url}/__state__").json()["state"]
    assert state == {"disclosures": 1, "receivers": 1, "outbox": []}
    (found,) = ledger.standin.ledger.find(ADA.known_by(IdentifierKind.EMAIL))
    assert found.disclosure == Disclosure(
        recipient="Courier One",
        disclosed_on=date(2026, 1, 15),
        categories=("name", "address"),
        ground=DisclosureGround.CONTRACT,
    )


def test_the_key_must_be_one(monkeypatch):
    """A missing or short key is a configuration error before anything is opened."""
    monkeypatch.delenv("DSR_LEDGER_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="DSR_LEDGER_KEY"):
        build()
    monkeypatch.setenv("DSR_LEDGER_KEY", "c2hvcnQ=")
    with pytest.raises(ConfigurationError, match="32 bytes"):
        build()


async def test_a_notification_is_plain_json(ledger):
    """A courier in any language can read who is to be told of what."""
    ledger.plant(disclosed())
    await ledger.run(Right.ERASURE)
    (path,) = ledger.settings.outbox.glob("ntf_*.json")
    body = json.loads(path.read_text())
    assert (body["type"], body["recipient"], body["right"]) == ("RecipientNotification", "Courier One", "erasure")

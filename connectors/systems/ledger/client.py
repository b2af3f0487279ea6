"""The ledger of disclosures (SQLite) and the outbox of notifications (a folder).

The ledger knows people by keyed hashes only: with the file alone nobody is found, and with an identifier and the key exactly
that person is. A notification names its person in a sealed part only, under a key of that recipient's.

Room rules: no readable identity on disk; blocking calls only, the connector takes them off the event loop.
"""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from connectors.sdk.durable import sync
from schemas.base import Instant, Record
from schemas.errors import ConfigurationError, SystemUnavailable
from schemas.sealed import Sealed, SealingKey, seal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, Right

__all__ = [
    "Disclosure",
    "DisclosureGround",
    "Found",
    "Ledger",
    "Notification",
    "Outbox",
    "notification_binding",
    "notification_id",
    "outbox_key",
]

Name = Annotated[str, StringConstraints(min_length=2, max_length=80, strip_whitespace=True)]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS disclosures (
    id INTEGER PRIMARY KEY, recipient TEXT NOT NULL, disclosed_on TEXT NOT NULL,
    categories TEXT NOT NULL, ground TEXT NOT NULL, reference TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS subjects (
    subject_key TEXT NOT NULL, disclosure_id INTEGER NOT NULL REFERENCES disclosures(id),
    PRIMARY KEY (subject_key, disclosure_id));
CREATE TABLE IF NOT EXISTS handed_over (
    order_id TEXT NOT NULL, disclosure_id INTEGER NOT NULL REFERENCES disclosures(id),
    PRIMARY KEY (order_id, disclosure_id));
"""
_Identifiers = Mapping[IdentifierKind, Iterable[str]]


class DisclosureGround(StrEnum):
    """Why the data was disclosed."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGITIMATE_INTEREST = "legitimate_interest"
    LEGAL_OBLIGATION = "legal_obligation"
    #: A ruling, or a particular inquiry by an authority: its receiver is no recipient (GDPR Art. 4(9)) and is not told.
    COURT_ORDER = "court_order"


class Disclosure(Record):
    """One act of giving personal data to somebody outside."""

    recipient: Annotated[Name, Field(description="Organisation, by registry name")]
    disclosed_on: date
    categories: Annotated[tuple[Name, ...], Field(min_length=1, description="Categories of data given")]
    ground: DisclosureGround
    reference: Annotated[str, Field(max_length=80, description="What the recipient files it under; no name or address")] = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A disclosure that concerns the person, and by which kinds of identifier it was found."""

    id: int
    disclosure: Disclosure
    found_by: frozenset[IdentifierKind]

    @property
    def is_court_order(self) -> bool:
        """Tell whether its receiver is no recipient in the sense of GDPR Art. 19."""
        return self.disclosure.ground is DisclosureGround.COURT_ORDER


class Notification(Record):
    """What lies in the outbox: one recipient, one change, everything that recipient was given (GDPR Art. 19)."""

    type: Literal["RecipientNotification"] = "RecipientNotification"
    version: int = 1
    notification_id: str
    recipient: Name
    right: Right
    requested_at: Annotated[Instant, Field(description="When the person asked: the same at every attempt")]
    disclosures: tuple[Disclosure, ...]
    sealed: Annotated[Sealed, Field(description="`SubjectData` under this recipient's outbox key, bound to the notification")]


def notification_id(order_id: str, recipient: str, disclosures: Iterable[int]) -> str:
    """Return the id of an order's notification of these disclosures to a recipient: the same at every attempt."""
    parts = (order_id, recipient, *(str(number) for number in sorted(disclosures)))
    return "ntf_" + blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def notification_binding(notification: str, recipient: str) -> str:
    """Return what a notification's seal is bound to."""
    return f"{notification}\x1f{recipient}"


def outbox_key(key: SealingKey, recipient: str) -> SealingKey:
    """Return the key that opens one recipient's notifications, and nobody else's."""
    return key.derive("ledger.outbox", recipient)


class Ledger:
    """The SQLite file. Every method opens it anew, so that any thread and any process may record and read."""

    def __init__(self, path: Path, key: SealingKey) -> None:
        self._path = path
        self._match = key.derive("ledger.match")

    def record(self, disclosure: Disclosure, identifiers: _Identifiers) -> None:
        """Write down one person's disclosure, findable by every identifier given; the identifiers themselves are not stored.

        A transfer that concerns several people is recorded once for each: an erasure cuts all ties of a record.
        """
        row = disclosure.model_dump(mode="json")
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO disclosures (recipient, disclosed_on, categories, ground, reference) VALUES (?, ?, ?, ?, ?)",
                (row["recipient"], row["disclosed_on"], "\x1f".join(row["categories"]), row["ground"], row["reference"]),
            )
            assert cursor.lastrowid is not None
            self._link(db, [cursor.lastrowid], identifiers)

    def find(self, identifiers: _Identifiers) -> list[Found]:
        """Return the disclosures that concern the person, oldest first."""
        found: dict[int, tuple[Disclosure, set[IdentifierKind]]] = {}
        with self._opened() as db:
            for kind, keys in self._keys(identifiers).items():
                for key in keys:
                    for number, disclosure in _rows(db, key):
                        found.setdefault(number, (disclosure, set()))[1].add(kind)
        rows = [Found(number, disclosure, frozenset(kinds)) for number, (disclosure, kinds) in found.items()]
        return sorted(rows, key=lambda row: (row.disclosure.disclosed_on, row.id))

    def handed_over(self, order_id: str) -> dict[int, str]:
        """Return the disclosures of which an order's notification was handed over before, each with its recipient."""
        with self._opened() as db:
            rows = db.execute(
                "SELECT id, recipient FROM handed_over JOIN disclosures ON disclosure_id = id WHERE order_id = ?", (order_id,)
            )
            return dict(rows.fetchall())

    def settle(
        self, order_id: str, told: Sequence[int], *, unlink: Sequence[int], link: Sequence[int], to: _Identifiers
    ) -> None:
        """Write down, all or nothing, what an order has changed here.

        `told`: disclosures whose notification lies in the outbox; call this after it does, so that a crash in between repeats
        it under the same id. `unlink`: disclosures that name nobody from now on. `link`: those also found by `to` from now on.
        """
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO handed_over VALUES (?, ?)", [(order_id, number) for number in told])
            db.executemany("DELETE FROM subjects WHERE disclosure_id = ?", [(number,) for number in unlink])
            db.executemany("UPDATE disclosures SET reference = '' WHERE id = ?", [(number,) for number in unlink])
            self._link(db, link, to)

    def _link(self, db: sqlite3.Connection, disclosures: Iterable[int], identifiers: _Identifiers) -> None:
        keys = sorted({key for keys in self._keys(identifiers).values() for key in keys})
        pairs = [(key, number) for number in disclosures for key in keys]
        db.executemany("INSERT OR IGNORE INTO subjects VALUES (?, ?)", pairs)

    def counts(self) -> tuple[int, int]:
        """Return how many disclosures are recorded, and to how many receivers."""
        with self._opened() as db:
            row = db.execute("SELECT COUNT(*), COUNT(DISTINCT recipient) FROM disclosures").fetchone()
        return int(row[0]), int(row[1])

    def _keys(self, identifiers: _Identifiers) -> dict[IdentifierKind, set[str]]:
        return {kind: {self._match.mac(_plain(kind, v)).hex() for v in values} for kind, values in identifiers.items()}

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=10)) as db:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA secure_delete = ON")
                db.executescript(_SCHEMA)
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise SystemUnavailable("ledger: the file cannot be opened or is locked: check DSR_LEDGER_PATH") from None
            raise ConfigurationError("ledger: DSR_LEDGER_PATH is no ledger: restore it from a backup") from None
        except OSError:
            raise ConfigurationError("ledger: the folder of DSR_LEDGER_PATH cannot be made: fix the path") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as db, db:
            yield db


class Outbox:
    """The folder from which somebody else's courier (mail gateway, letter service) collects; it deletes what it has sent."""

    def __init__(self, folder: Path, key: SealingKey) -> None:
        self._folder = folder
        self._key = key

    def hand_over(
        self,
        number: str,
        recipient: str,
        *,
        right: Right,
        requested_at: datetime,
        told: Iterable[Disclosure],
        who: SubjectData,
    ) -> None:
        """Put one notification in the folder, whole and durable, or raise `SystemUnavailable`.

        A repetition writes the same bytes under the same name. Returning does not imply that anybody has read it.
        """
        binding = notification_binding(number, recipient)
        notification = Notification(
            notification_id=number,
            recipient=recipient,
            right=right,
            requested_at=requested_at,
            disclosures=tuple(told),
            sealed=seal(who.to_bytes(), outbox_key(self._key, recipient), associated=binding),
        )
        self._write(number, notification.model_dump_json().encode())

    def waiting(self) -> int:
        """Return how many notifications nobody has collected yet. Raises `ConfigurationError` if the folder is unusable."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise ConfigurationError("ledger: the folder DSR_LEDGER_OUTBOX is not writable: fix its owner or mode")
            return len(list(self._folder.glob("ntf_*.json")))
        except OSError:
            raise ConfigurationError("ledger: the folder DSR_LEDGER_OUTBOX cannot be made: fix the path") from None

    def _write(self, name: str, content: bytes) -> None:
        final, passing = self._folder / f"{name}.json", self._folder / f".{name}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            passing.replace(final)
            sync(self._folder)
        except OSError:
            raise SystemUnavailable("ledger: the outbox took no notification: check space and DSR_LEDGER_OUTBOX") from None


def _plain(kind: IdentifierKind, value: str) -> bytes:
    plain = unicodedata.normalize("NFC", value.strip())
    return f"{kind.value}\x1f{plain.lower() if kind is IdentifierKind.EMAIL else plain}".encode()


def _rows(db: sqlite3.Connection, key: str) -> list[tuple[int, Disclosure]]:
    rows = db.execute(
        "SELECT id, recipient, disclosed_on, categories, ground, reference FROM disclosures"
        " JOIN subjects ON disclosure_id = id WHERE subject_key = ?",
        (key,),
    )
    return [
        (
            row[0],
            Disclosure(
                recipient=row[1],
                disclosed_on=date.fromisoformat(row[2]),
                categories=tuple(row[3].split("\x1f")),
                ground=DisclosureGround(row[4]),
                reference=row[5],
            ),
        )
        for row in rows
    ]

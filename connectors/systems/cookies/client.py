"""The map from a visitor's cookie to analytics ids and persons, in SQL: SQLite by default, PostgreSQL by URL.

Cookies and persons are known by keyed hashes only; what a browser's cookies are called elsewhere is sealed. With the database
alone nobody is found, and with an identifier and the key exactly that person is.

Room rules: no readable identity on disk; blocking calls only, the connector takes them off the event loop.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, SQLAlchemyError

from schemas.errors import ConfigurationError, ProtocolViolation, SystemUnavailable
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind

__all__ = ["ANALYTICS", "PERSONS", "Browser", "CookieMap"]

#: Identifiers of a person that a browser can be filed under.
PERSONS = (IdentifierKind.ACCOUNT_ID, IdentifierKind.EMAIL)
#: What a browser is called by analytics tools.
ANALYTICS = (IdentifierKind.GA_CLIENT_ID, IdentifierKind.HOTJAR_USER_ID)

_META = sa.MetaData()
_BROWSERS = sa.Table(
    "dsr_cookie_browsers",
    _META,
    sa.Column("cookie_key", sa.String(64), primary_key=True),
    sa.Column("sealed", sa.Text, nullable=False),
)
_OWNERS = sa.Table(
    "dsr_cookie_owners",
    _META,
    sa.Column("person_key", sa.String(64), primary_key=True),
    sa.Column("cookie_key", sa.String(64), sa.ForeignKey(_BROWSERS.c.cookie_key), primary_key=True, index=True),
    #: The same for all identifiers that were recorded together: two of them with one value are one person.
    sa.Column("together", sa.String(64), nullable=False),
)
_MARKS = sa.Table(
    "dsr_cookie_marks",
    _META,
    sa.Column("cookie_key", sa.String(64), primary_key=True),
    sa.Column("marked_on", sa.Date, nullable=False),
    sa.Column("told_on", sa.Date),
)
_Identifiers = Mapping[IdentifierKind, Iterable[str]]


@dataclass(frozen=True, slots=True)
class Browser:
    """One browser, by the cookie the website gave it. `repr` shows no id."""

    key: str = field(repr=False)
    ids: Mapping[IdentifierKind, tuple[str, ...]] = field(repr=False)
    found_by: frozenset[IdentifierKind]
    #: Filed under somebody else as well.
    is_shared: bool
    marked_on: date | None


class CookieMap:
    """The map. Every call is one transaction: all of it stands, or nothing."""

    def __init__(self, url: str, key: SealingKey) -> None:
        self._match = key.derive("cookies.match")
        self._seal = key.derive("cookies.browser")
        self._file: Path | None = None
        self._is_made = False
        try:
            self._engine = sa.create_engine(
                url, hide_parameters=True, poolclass=sa.pool.NullPool, isolation_level="SERIALIZABLE"
            )
        except (ArgumentError, NoSuchModuleError, ImportError):
            raise ConfigurationError("DSR_COOKIES_URL: write an SQLAlchemy URL, as sqlite:///.dsr/cookies.sqlite") from None
        if self._engine.dialect.name == "sqlite":
            if not self._engine.url.database:
                raise ConfigurationError("DSR_COOKIES_URL: name a file: the website must be able to open it too")
            self._file = Path(self._engine.url.database)
            sa.event.listen(self._engine, "connect", _prepare)
            sa.event.listen(self._engine, "begin", _begin)

    def record(self, cookie_id: str, ids: _Identifiers) -> bool:
        """File what a visit shows: analytics ids and, after a log-in, the person. Call it from the website's own code.

        False, and nothing is stored, if this browser is to forget (`is_marked`): whoever objected is not filed again.
        """
        key = self._key(IdentifierKind.COOKIE_ID, cookie_id)
        with self._transaction() as db:
            if self._mark_of(db, key) is not None:
                return False
            held = db.execute(sa.select(_BROWSERS.c.sealed).where(_BROWSERS.c.cookie_key == key).with_for_update()).scalar()
            known = {} if held is None else self._opened(key, held)
            new = {IdentifierKind.COOKIE_ID: (cookie_id,)} | {kind: tuple(ids.get(kind, ())) for kind in ANALYTICS}
            merged = {kind: tuple(dict.fromkeys((*known.get(kind, ()), *values))) for kind, values in new.items()}
            content = self._sealed(key, merged)
            if held is None:
                db.execute(sa.insert(_BROWSERS).values(cookie_key=key, sealed=content))
            else:
                db.execute(sa.update(_BROWSERS).where(_BROWSERS.c.cookie_key == key).values(sealed=content))
            self._file_under(db, key, {kind: tuple(ids.get(kind, ())) for kind in PERSONS})
        return True

    def find(self, identifiers: _Identifiers) -> list[Browser]:
        """Return the browsers of a person: those of the cookies, and those filed under the person's account or address."""
        with self._transaction() as db:
            found: dict[str, set[IdentifierKind]] = {}
            for kind, keys in self._keys(identifiers).items():
                column = _BROWSERS.c.cookie_key if kind is IdentifierKind.COOKIE_ID else _OWNERS.c.person_key
                owned = sa.select(_BROWSERS.c.cookie_key if kind is IdentifierKind.COOKIE_ID else _OWNERS.c.cookie_key)
                for (key,) in db.execute(owned.where(column.in_(keys))):
                    found.setdefault(key, set()).add(kind)
            mine = self._mine(db, identifiers)
            return [self._browser(db, key, frozenset(kinds), mine) for key, kinds in sorted(found.items())]

    def settle(self, identifiers: _Identifiers, *, forget: Iterable[Browser], mark: Iterable[str], today: date) -> int:
        """Write down what an order changes: browsers to forget, and cookies whose browsers are to be told; return new marks.

        A shared browser loses only its tie to this person, unless the order named its very cookie.
        """
        with self._transaction() as db:
            mine = self._mine(db, identifiers)
            for browser in forget:
                db.execute(sa.delete(_OWNERS).where(_OWNERS.c.cookie_key == browser.key, _OWNERS.c.together.in_(mine)))
                if not browser.is_shared or IdentifierKind.COOKIE_ID in browser.found_by:
                    db.execute(sa.delete(_OWNERS).where(_OWNERS.c.cookie_key == browser.key))
                    db.execute(sa.delete(_BROWSERS).where(_BROWSERS.c.cookie_key == browser.key))
            new = [key for key in sorted({*mark}) if self._mark_of(db, key) is None]
            for key in new:
                db.execute(sa.insert(_MARKS).values(cookie_key=key, marked_on=today))
        return len(new)

    def key_of(self, cookie_id: str) -> str:
        """Return the keyed hash under which a cookie is known."""
        return self._key(IdentifierKind.COOKIE_ID, cookie_id)

    def is_marked(self, cookie_id: str, today: date) -> bool:
        """Tell the website whether this browser is to forget its cookies and not be tracked, and note that it was told."""
        key = self.key_of(cookie_id)
        with self._transaction() as db:
            is_marked = self._mark_of(db, key) is not None
            if is_marked:
                db.execute(sa.update(_MARKS).where(_MARKS.c.cookie_key == key).values(told_on=today))
        return is_marked

    def drop_marks(self, today: date, kept_days: int) -> None:
        """Drop marks so old that no browser can hold the cookie any more."""
        with self._transaction() as db:
            db.execute(sa.delete(_MARKS).where(_MARKS.c.marked_on < today - timedelta(days=kept_days)))

    def counts(self) -> tuple[int, int]:
        """Return how many browsers are mapped, and how many have not come back since they were marked."""
        with self._transaction() as db:
            mapped = db.execute(sa.select(sa.func.count()).select_from(_BROWSERS)).scalar_one()
            waiting = db.execute(sa.select(sa.func.count()).select_from(_MARKS).where(_MARKS.c.told_on.is_(None))).scalar_one()
        return int(mapped), int(waiting)

    def _file_under(self, db: sa.Connection, cookie_key: str, persons: _Identifiers) -> None:
        keys = sorted({key for keys in self._keys(persons).values() for key in keys})
        if not keys:
            return
        mine = self._mine(db, persons)
        together = mine[0] if mine else keys[0]
        db.execute(sa.update(_OWNERS).where(_OWNERS.c.together.in_(mine)).values(together=together))
        held = db.execute(sa.select(_OWNERS.c.person_key).where(_OWNERS.c.cookie_key == cookie_key)).scalars().all()
        for key in keys:
            if key not in held:
                db.execute(sa.insert(_OWNERS).values(person_key=key, cookie_key=cookie_key, together=together))

    def _mine(self, db: sa.Connection, identifiers: _Identifiers) -> list[str]:
        """Return the groups of identifiers that these belong to."""
        keys = [key for kind, keys in self._keys(identifiers).items() if kind in PERSONS for key in keys]
        rows = db.execute(sa.select(_OWNERS.c.together).where(_OWNERS.c.person_key.in_(keys)).distinct())
        return sorted(rows.scalars())

    def _browser(self, db: sa.Connection, key: str, found_by: frozenset[IdentifierKind], mine: list[str]) -> Browser:
        content = db.execute(sa.select(_BROWSERS.c.sealed).where(_BROWSERS.c.cookie_key == key)).scalar_one()
        owners = set(db.execute(sa.select(_OWNERS.c.together).where(_OWNERS.c.cookie_key == key)).scalars())
        # Found by the cookie alone nobody is known as its owner: two owners are then one too many.
        is_shared = bool(owners - set(mine)) if mine else len(owners) > 1
        return Browser(key, self._opened(key, content), found_by, is_shared, self._mark_of(db, key))

    @staticmethod
    def _mark_of(db: sa.Connection, key: str) -> date | None:
        return db.execute(sa.select(_MARKS.c.marked_on).where(_MARKS.c.cookie_key == key)).scalar()

    def _keys(self, identifiers: _Identifiers) -> dict[IdentifierKind, list[str]]:
        kinds = (IdentifierKind.COOKIE_ID, *PERSONS)
        return {kind: [self._key(kind, value) for value in identifiers[kind]] for kind in kinds if kind in identifiers}

    def _key(self, kind: IdentifierKind, value: str) -> str:
        plain = unicodedata.normalize("NFC", value.strip())
        plain = plain.lower() if kind is IdentifierKind.EMAIL else plain
        return self._match.mac(f"{kind.value}\x1f{plain}".encode()).hex()

    def _sealed(self, key: str, ids: Mapping[IdentifierKind, tuple[str, ...]]) -> str:
        content = SubjectData(identifiers={kind: values for kind, values in ids.items() if values}).to_bytes()
        return seal(content, self._seal, associated=key).model_dump_json()

    def _opened(self, key: str, content: str) -> dict[IdentifierKind, tuple[str, ...]]:
        try:
            plaintext = unsafe_reveal(Sealed.model_validate_json(content), self._seal, associated=key)
        except ProtocolViolation:
            raise ConfigurationError("DSR_COOKIES_KEY: a row was sealed under another key: set that one") from None
        return SubjectData.model_validate_json(plaintext).identifiers

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file.touch(mode=0o600)
            with self._engine.begin() as db:
                if not self._is_made:
                    _META.create_all(db)
                yield db
            self._is_made = True
        except (OperationalError, IntegrityError):
            raise SystemUnavailable("cookies: the database is locked or away: check DSR_COOKIES_URL") from None
        except SQLAlchemyError as error:
            raise ConfigurationError(f"DSR_COOKIES_URL: that database cannot hold the map ({type(error).__name__})") from None
        except OSError:
            raise ConfigurationError("DSR_COOKIES_URL: the folder of that file cannot be made: fix the path") from None


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("synchronous=FULL", "secure_delete=ON", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")

"""The connector's own journal: which orders it has taken, how far each one is, which reports are out.

One SQLite file for one system, one writer. WAL, synchronous=FULL, secure_delete: what a transaction wrote survives a power
cut, and what it cleared is overwritten.

Room rules: storage only, no decision; identities stay sealed, as they came, and leave once the final report is out.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from connectors.sdk.breaker import Pause
from connectors.sdk.forecast import Due, Pace, end_of
from connectors.sdk.journal_cancelled import Cancellations
from connectors.sdk.journal_forgetting import Forgettings
from connectors.sdk.journal_tables import IS_OPEN, IS_PROMPT, ORDERS, PACE, PAUSE, REPORTS, OrderState, create
from connectors.sdk.protocol import Throttle
from connectors.sdk.sqlite_file import prepare
from connectors.sdk.turns import Lane, sequence
from schemas.errors import ConfigurationError, StoreUnavailable
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Failed
from schemas.reports import FulfilmentReport
from schemas.sealed import Sealed
from schemas.topics import PROMPT_RIGHTS
from schemas.wire import encode

__all__ = ["Among", "Entry", "Journal", "OrderState", "Page", "StoredReport", "reading"]

_BY_AGE = (ORDERS.c.taken_ms, ORDERS.c.order_id)
#: Queue -> who stands in it, in which order, and the index of just that: left alone, SQLite sorts all whose moment has come.
_LANES: Mapping[Lane, tuple[str, tuple[sa.Column[Any], ...], str]] = {
    Lane.PROMPT: (IS_PROMPT, _BY_AGE, "queue_prompt"),
    Lane.DUE: (IS_OPEN, (ORDERS.c.due_on, *_BY_AGE), "queue_due"),
    Lane.OLDEST: (IS_OPEN, _BY_AGE, "queue_oldest"),
}
_OPEN = (OrderState.WAITING, OrderState.POLLING)
# Built once: building a statement costs more than running it.
_FIND = sa.select(ORDERS).where(ORDERS.c.order_id == sa.bindparam("wanted"))
_SET = sa.update(ORDERS).where(ORDERS.c.order_id == sa.bindparam("wanted"))
_INSERT = sa.insert(ORDERS)
_ADD_REPORT = sa.insert(REPORTS).prefix_with("OR IGNORE")
_DUE: Mapping[Lane, sa.Select[Any]] = {
    lane: sa.select(sa.column("order_id"))
    .select_from(sa.text(f"orders INDEXED BY {index}"))
    .where(
        sa.text(stands),
        sa.column("not_before_ms") <= sa.bindparam("now"),
        sa.column("order_id").not_in(sa.bindparam("but", expanding=True)),
    )
    .order_by(*(sa.column(column.name) for column in turn))
    .limit(sa.bindparam("most"))
    for lane, (stands, turn, index) in _LANES.items()
}
# One state at a time: then each answer is the first entry of an index.
_EARLIEST = sa.select(sa.func.min(ORDERS.c.not_before_ms)).where(ORDERS.c.state == sa.bindparam("wanted"))
_ONLY = sa.column("order_id").in_(sa.bindparam("only", expanding=True))
_DUE_ONLY: Mapping[Lane, sa.Select[Any]] = {lane: query.where(_ONLY) for lane, query in _DUE.items()}
_EARLIEST_ONLY = _EARLIEST.where(_ONLY)
_COUNT = sa.select(sa.func.count()).select_from(ORDERS).where(ORDERS.c.state.in_(sa.bindparam("wanted", expanding=True)))
_UNSENT = sa.select(REPORTS).where(REPORTS.c.sent.is_(False)).order_by(REPORTS.c.number).limit(sa.bindparam("most"))
_LAST_REPORT = (
    sa.select(REPORTS)
    .where(REPORTS.c.order_id == sa.bindparam("wanted"), REPORTS.c.final == sa.bindparam("is_final"))
    .order_by(REPORTS.c.number.desc())
    .limit(1)
)
_SENT = sa.update(REPORTS).where(REPORTS.c.report_id.in_(sa.bindparam("reported", expanding=True))).values(sent=True)
_ENDED = ORDERS.c.order_id.in_(sa.bindparam("ended", expanding=True))
_CLEAR = sa.update(ORDERS).where(_ENDED, ORDERS.c.state == OrderState.REPORTED).values(order_bytes=None)
_CLEAR_FINDS = sa.update(ORDERS).where(_ENDED).values(found=None)
_DROP_REPORTS = sa.delete(REPORTS).where(REPORTS.c.order_id == sa.bindparam("wanted"))
_DROP = sa.delete(ORDERS).where(ORDERS.c.order_id == sa.bindparam("wanted"))
_OLD = sa.and_(
    ORDERS.c.state == OrderState.REPORTED,
    ORDERS.c.taken_ms < sa.bindparam("moment"),
    ORDERS.c.not_before_ms < sa.bindparam("moment"),
    sa.or_(
        sa.and_(ORDERS.c.handle.is_(None), ORDERS.c.found.is_(None)),
        ORDERS.c.taken_ms < sa.bindparam("unfinished"),
    ),
    ORDERS.c.order_id.not_in(sa.select(REPORTS.c.order_id).where(REPORTS.c.sent.is_(False))),
)
_FORGET_REPORTS = sa.delete(REPORTS).where(REPORTS.c.order_id.in_(sa.select(ORDERS.c.order_id).where(_OLD)))
_FORGET = sa.delete(ORDERS).where(_OLD)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Entry:
    """One order in the journal. `order` is None once its final report is acknowledged."""

    order_id: str
    attempt: int
    state: OrderState
    tries: int
    polls: int
    not_before: datetime
    order: FulfilmentOrder | None = field(repr=False)
    handle: Sealed | None = field(repr=False)
    found: Sealed | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A report as it was, or will be, published."""

    report: FulfilmentReport
    right: str
    final: bool
    sent: bool


class Page:
    """One transaction on the journal."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @property
    def cancellations(self) -> Cancellations:
        """Return what is kept of orders that are over before they were reported."""
        return Cancellations(self._connection)

    @property
    def forgettings(self) -> Forgettings:
        """Return what is kept of orders that the connector has yet to forget."""
        return Forgettings(self._connection)

    def find(self, order_id: str) -> Entry | None:
        """Return an order, None if never taken (or forgotten since)."""
        row = self._connection.execute(_FIND, {"wanted": order_id}).mappings().first()
        return None if row is None else _entry(row)

    def insert(self, order: FulfilmentOrder, now: datetime, *, state: OrderState = OrderState.WAITING) -> None:
        """Take an order."""
        values = {
            "order_id": order.order_id,
            "subject_request_id": order.subject_request_id,
            "attempt": order.attempt,
            "state": state,
            "due_on": order.due_on.isoformat(),
            "taken_ms": _ms(now),
            "not_before_ms": _ms(now),
            "tries": 0,
            "polls": 0,
            "order_bytes": encode(order),
            "prompt": order.right in PROMPT_RIGHTS,
            "due_ms": None if order.due_at is None else _ms(order.due_at),
        }
        self._connection.execute(_INSERT, values)

    def set(
        self,
        order_id: str,
        *,
        state: OrderState | None = None,
        not_before: datetime | None = None,
        order: FulfilmentOrder | None = None,
        **columns: int | Sealed | None,
    ) -> None:
        """Change an order: `attempt`, `tries`, `polls`, `handle` and `found` by name."""
        values: dict[str, Any] = {
            name: value.model_dump_json().encode() if isinstance(value, Sealed) else value for name, value in columns.items()
        }
        if state is not None:
            values["state"] = state
        if not_before is not None:
            values["not_before_ms"] = _ms(not_before)
        if order is not None:
            values |= {"order_bytes": encode(order), "attempt": order.attempt, "due_on": order.due_on.isoformat()}
            values["due_ms"] = None if order.due_at is None else _ms(order.due_at)
        self._connection.execute(_SET, {"wanted": order_id, **values})

    def due(
        self,
        now: datetime,
        limit: int,
        lane: Lane = Lane.DUE,
        *,
        but: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> list[Entry]:
        """Return open orders whose moment has come, as they stand in one queue: none of `but`, and of `only` if it is given."""
        wanted: dict[str, Any] = {"now": _ms(now), "but": list(but), "most": limit}
        query = _DUE[lane]
        if only is not None:
            query, wanted = _DUE_ONLY[lane], wanted | {"only": list(only)}
        found = [self.find(order_id) for order_id in self._connection.execute(query, wanted).scalars().all()]
        return [entry for entry in found if entry is not None]

    def orders_ahead(self, order_id: str) -> int:
        """Return how many open orders stand before this one, in the queue in which these are fewest."""
        row = self._connection.execute(_FIND, {"wanted": order_id}).mappings().one()
        ahead = []
        for lane, (stands, turn, _) in _LANES.items():
            if lane is not Lane.PROMPT or row["prompt"]:
                before = sa.tuple_(*turn) < sa.tuple_(*(sa.literal(row[column.name]) for column in turn))
                query = sa.select(sa.func.count()).select_from(ORDERS).where(sa.text(stands), before)
                ahead.append(int(self._connection.execute(query).scalar_one()))
        return min(ahead)

    def oldest_taken_at(self) -> datetime | None:
        """Return when the open order that waits longest was taken."""
        query = sa.select(sa.func.min(ORDERS.c.taken_ms)).where(sa.text(IS_OPEN))
        value = self._connection.execute(query).scalar()
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)

    def pace(self) -> tuple[Pace, Throttle] | None:
        """Return what was measured last and what the system allows; None if the connector has never run on this journal."""
        row = self._connection.execute(sa.select(PACE)).first()
        if row is None:
            return None
        throttle = Throttle(concurrent=row.concurrent, per_second=row.per_second, per_day=row.per_day, day_zone=row.day_zone)
        return Pace(row.seconds, row.calls, row.orders, row.share), throttle

    def keep_pace(self, pace: Pace, throttle: Throttle) -> None:
        """Keep these in place of those that are kept."""
        self._connection.execute(sa.delete(PACE))
        self._connection.execute(sa.insert(PACE).values(**asdict(pace), **asdict(throttle)))

    def in_turn(self) -> list[Due]:
        """Return when each order that waits for its turn, or is worked on, is due: in the order of their turns."""
        columns = (ORDERS.c.due_on, ORDERS.c.taken_ms, ORDERS.c.order_id, ORDERS.c.due_ms, ORDERS.c.prompt)
        query = sa.select(*columns).where(ORDERS.c.state.in_((OrderState.WAITING, OrderState.WORKING)))
        rows = self._connection.execute(query).all()
        ages, dues = [(row.taken_ms, row.order_id) for row in rows], [(row.due_on, row.taken_ms, row.order_id) for row in rows]
        turns = sequence(ages, dues, [row.prompt for row in rows])
        return [_due(rows[number].due_on, rows[number].due_ms) for number in turns]

    def next_due_at(self, *, only: Collection[str] | None = None) -> datetime | None:
        """Return the earliest `not_before` of an open order, of those in `only` if it is given."""
        query, wanted = (_EARLIEST, {}) if only is None else (_EARLIEST_ONLY, {"only": list(only)})
        values = [self._connection.execute(query, {"wanted": state, **wanted}).scalar() for state in _OPEN]
        known = [value for value in values if value is not None]
        return datetime.fromtimestamp(min(known) / 1000, UTC) if known else None

    def count(self, *states: OrderState) -> int:
        """Return how many orders are in these states."""
        return int(self._connection.execute(_COUNT, {"wanted": states}).scalar_one())

    def requeue_interrupted(self) -> int:
        """Put orders that a dead process worked on back in the queue; return how many."""
        resumed = sa.case((ORDERS.c.handle.is_(None), OrderState.WAITING.value), else_=OrderState.POLLING.value)
        statement = sa.update(ORDERS).where(ORDERS.c.state == OrderState.WORKING).values(state=resumed)
        return self._connection.execute(statement).rowcount

    def add_report(self, report: FulfilmentReport, right: str, *, final: bool) -> None:
        """Write a report down, to be sent; one that is already written, by its id, stays as it is."""
        values = {
            "report_id": report.report_id,
            "order_id": report.order_id,
            "right": right,
            "final": final,
            "sent": False,
            "report_bytes": encode(report),
        }
        self._connection.execute(_ADD_REPORT, values)

    def unsent(self, limit: int) -> list[StoredReport]:
        """Return reports that the broker has not acknowledged, oldest first."""
        return [_stored(row) for row in self._connection.execute(_UNSENT, {"most": limit}).mappings()]

    def last_report(self, order_id: str, *, final: bool) -> StoredReport | None:
        """Return the last final (or last progress) report of an order."""
        row = self._connection.execute(_LAST_REPORT, {"wanted": order_id, "is_final": final}).mappings().first()
        return None if row is None else _stored(row)

    def mark_sent(self, reports: Sequence[StoredReport]) -> None:
        """Note the broker's acks, and clear the sealed order of every order that is reported for good.

        A failed one keeps its vendor's handle and its finds: somebody will ask again, and the job may still run, and the
        record in which the finds stood may be gone.
        """
        ids = [stored.report.report_id for stored in reports]
        self._connection.execute(_SENT, {"reported": ids})
        ended = [stored.report.order_id for stored in reports if stored.final]
        if ended:
            self._connection.execute(_CLEAR, {"ended": ended})
        done = [stored.report.order_id for stored in reports if stored.final and not isinstance(stored.report.outcome, Failed)]
        if done:
            self._connection.execute(_CLEAR_FINDS, {"ended": done})

    def drop(self, order_id: str) -> None:
        """Delete an order and its reports, sent or not: it is over, and whoever opens it again sends it again."""
        self._connection.execute(_DROP_REPORTS, {"wanted": order_id})
        self._connection.execute(_DROP, {"wanted": order_id})

    def pause(self) -> Pause | None:
        """Return the pause that is kept."""
        row = self._connection.execute(sa.select(PAUSE)).first()
        return None if row is None else Pause(row.number, datetime.fromtimestamp(row.until_ms / 1000, UTC))

    def keep_pause(self, pause: Pause | None) -> None:
        """Keep a pause in place of the one that is kept, or none."""
        self._connection.execute(sa.delete(PAUSE))
        if pause is not None:
            self._connection.execute(sa.insert(PAUSE).values(number=pause.number, until_ms=_ms(pause.until)))

    def forget_before(self, moment: datetime, *, unfinished: datetime | None = None) -> int:
        """Delete reported orders that were taken, and last had a turn, before `moment`, with their reports; return how many.

        One that was asked for again has had a turn since it was taken: what came of it must be remembered as long as any.

        A failed order that still has its vendor's handle or its finds is kept until it is older than `unfinished`: somebody
        may yet ask again, and then the job may still run, and the record in which the finds stood may be gone.
        """
        last = moment if unfinished is None else unfinished
        self.cancellations.forget_before(moment, unfinished=last)
        before = {"moment": _ms(moment), "unfinished": _ms(last)}
        self._connection.execute(_FORGET_REPORTS, before)
        return self._connection.execute(_FORGET, before).rowcount


class Among:
    """A page's queues as if some orders were the only ones."""

    def __init__(self, page: Page, only: Collection[str]) -> None:
        self._page = page
        self._only = only

    def due(self, now: datetime, limit: int, lane: Lane = Lane.DUE, *, but: Collection[str] = ()) -> list[Entry]:
        """Return those whose moment has come, as they stand in one queue."""
        return self._page.due(now, limit, lane, but=but, only=self._only)

    def next_due_at(self) -> datetime | None:
        """Return the earliest `not_before` of one that is open."""
        return self._page.next_due_at(only=self._only)


class Journal:
    """The file. Open it in one process at a time; a second one is refused."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(path.with_suffix(".lock"))
        self._engine = sa.create_engine(f"sqlite:///{path}", hide_parameters=True, poolclass=sa.pool.StaticPool)
        prepare(self._engine)
        try:
            self._connection = self._engine.connect()
            with self._connection.begin():
                create(self._connection)
        except SQLAlchemyError as error:
            self._lock.close()
            raise StoreUnavailable(f"the journal cannot be opened: {type(error).__name__}") from None
        path.chmod(0o600)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Page]:
        """Open a transaction: durable when the block ends, undone if it raises. Raises `StoreUnavailable`."""
        try:
            with self._connection.begin():
                yield Page(self._connection)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"the journal refused a transaction: {type(error).__name__}") from None

    def pause(self) -> Pause | None:
        """Return the pause that is kept, None if the system works."""
        with self.transaction() as page:
            return page.pause()

    def keep_pause(self, pause: Pause | None) -> None:
        """Keep a pause, durably, or forget it."""
        with self.transaction() as page:
            page.keep_pause(pause)

    def compact(self) -> None:
        """Bring the log of changes into the file, so that cleared bytes are overwritten there too."""
        cursor = self._connection.connection.cursor()
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.close()
        self._connection.rollback()

    def close(self) -> None:
        """Close the file and let another process open it."""
        self.compact()
        self._connection.close()
        self._engine.dispose()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Page]:
    """Open a journal to read one consistent state of it, also while its connector runs.

    Raises `ConfigurationError` if there is none, `StoreUnavailable` if it cannot be read.
    """
    if not path.exists():
        raise ConfigurationError(f"there is no journal {path.name}: set DSR_STATE_DIR to the connector's folder")
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", hide_parameters=True, poolclass=sa.pool.NullPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield Page(connection)
    except SQLAlchemyError as error:
        raise StoreUnavailable(
            f"the journal cannot be read ({type(error).__name__}): start the connector of this release on it once"
        ) from None
    finally:
        engine.dispose()


def _locked(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigurationError(
            "another process has this journal open: a second one of a system takes a DSR_STATE_DIR of its own"
        ) from None
    return file


def _sealed(value: bytes | None) -> Sealed | None:
    return None if value is None else Sealed.model_validate_json(value)


def _due(due_on: str, due_ms: int | None) -> Due:
    day = date.fromisoformat(due_on)
    return Due(day, end_of(day) if due_ms is None else datetime.fromtimestamp(due_ms / 1000, UTC))


def _entry(row: Mapping[Any, Any]) -> Entry:
    order = row["order_bytes"]
    return Entry(
        order_id=row["order_id"],
        attempt=row["attempt"],
        state=OrderState(row["state"]),
        tries=row["tries"],
        polls=row["polls"],
        not_before=datetime.fromtimestamp(row["not_before_ms"] / 1000, UTC),
        order=None if order is None else FulfilmentOrder.model_validate_json(order),
        handle=_sealed(row["handle"]),
        found=_sealed(row["found"]),
    )


def _stored(row: Mapping[Any, Any]) -> StoredReport:
    report = FulfilmentReport.model_validate_json(row["report_bytes"])
    return StoredReport(report, row["right"], row["final"], row["sent"])

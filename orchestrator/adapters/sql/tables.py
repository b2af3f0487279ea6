"""The store's tables. Instants are microseconds since 1970 in UTC, the same on every database.

Room rules: no column holds an identity, except sealed in `identities`, whose rows are deleted at the end of a request.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = [
    "deaths",
    "gates",
    "identities",
    "lives",
    "metadata",
    "outbox",
    "refusals",
    "registries",
    "requests",
    "service_keys",
    "subjects",
]

metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("subject_request_id", String(36), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("right", String(16), nullable=False),
    Column("person", String(64)),
    Column("wake_at", BigInteger),
    Column("due_at", BigInteger),
    Column("received_at", BigInteger),
    Column("awaited", Text, nullable=False),
)
Index("requests_by_person", requests.c.person)
Index("requests_by_wake", requests.c.wake_at)

#: Groups of one person's open requests; a version that grows with each decision that looked at the group.
subjects = Table(
    "subjects",
    metadata,
    Column("person", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("subject_request_id", String(36), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("worker", String(80), nullable=False),
    Column("saved_at", BigInteger, nullable=False),
    Column("records", LargeBinary, nullable=False),
    # An id is never given twice: "this batch is out" must not hit a later one.
    sqlite_autoincrement=True,
)

registries = Table(
    "registries",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

#: Records that were not carried out. The content belongs to the key: a topic made again gives its offsets again.
refusals = Table(
    "refusals",
    metadata,
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("content", String(64), primary_key=True),
    Column("saved_at", BigInteger, nullable=False),
)
Index("refusals_by_age", refusals.c.saved_at)

#: Records at which a worker's life has ended by a defect of our own, and how many have.
deaths = Table(
    "deaths",
    metadata,
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("content", String(64), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    #: How many have ended without a word while they had it in hand; `count` is of the others.
    Column("silent", Integer, nullable=False, server_default="0"),
)

#: Lives of workers that have begun and not ended in order, with the number of those before them that did not either.
lives = Table(
    "lives",
    metadata,
    Column("worker", String(80), primary_key=True),
    Column("begun_at", BigInteger, nullable=False),
    Column("ends", Integer, nullable=False),
)

gates = Table(
    "gates",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("shut_at", BigInteger),
    Column("at_most", Integer),
    Column("open_until", BigInteger),
)

#: The installation's own keys, wrapped: never in clear. One whose `wrapped` is gone is destroyed, and its name stays.
service_keys = Table(
    "service_keys",
    metadata,
    Column("kid", String(80), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("public", LargeBinary),
    Column("wrapped", LargeBinary),
    Column("destroyed_at", BigInteger),
)

"""The example company's own database, made and filled: accounts, messages of the web forms, and invoices.

It is a real database (SQLite or PostgreSQL, by URL); the HTTP side only plants and inspects, as other stand-ins do, so that a
demo or a test looks into all systems in one way. `/__control__` has nothing to hit: no call of the connector comes by HTTP.

Room rules: nothing here is reachable from production code paths; people live on example.org.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
)
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.standin import StandIn
from connectors.systems.accounts.values import as_json

__all__ = ["EXAMPLE_MAP", "PSEUDONYM_KEY", "AccountsStandIn", "build", "metadata"]

#: The table map that fits these tables.
EXAMPLE_MAP = Path(__file__).with_name("example-map.yaml")
#: A pseudonym key for demos and tests, in base64: the bytes 0 to 31.
PSEUDONYM_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("customer_no", String(40), unique=True),
    Column("email", String(320), nullable=False, index=True),
    Column("first_name", String(80)),
    Column("last_name", String(80), nullable=False),
    Column("phone", String(40)),
    Column("street", String(120)),
    Column("zip_code", String(20)),
    Column("city", String(80)),
    Column("country", String(60)),
    Column("marketing_allowed", Boolean, nullable=False, default=True),
    Column("newsletter", Boolean, nullable=False, default=True),
    Column("processing_restricted", Boolean, nullable=False, default=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
web_forms = Table(
    "web_forms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id")),
    Column("email", String(320), nullable=False, index=True),
    Column("subject", String(200)),
    Column("message", Text),
    Column("sent_at", DateTime(timezone=True), nullable=False),
)
invoices = Table(
    "invoices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("number", String(40), nullable=False, unique=True),
    Column("issued_on", Date),
    Column("amount", Numeric(12, 2), nullable=False),
    Column("billing_name", String(160)),
)

_PERSON = {"first_name", "last_name", "phone", "street", "zip_code", "city", "country", "marketing_allowed", "newsletter"}


class AccountsStandIn(StandIn):
    """Makes the tables in an empty database and plants people in them; planting somebody again starts that person anew."""

    name: ClassVar[str] = "accounts"

    def __init__(self, url: str | None = None, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._folder: TemporaryDirectory[str] | None = None
        if url is None:
            self._folder = TemporaryDirectory(prefix="dsr-accounts-")
            url = f"sqlite:///{self._folder.name}/company.db"
        self.url = url
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        metadata.create_all(self.engine)

    def routes(self) -> list[Route]:
        """Return none: a database speaks no HTTP."""
        return []

    def close(self) -> None:
        """Close the connections; the data stays, except in a database of the stand-in's own."""
        self.engine.dispose()
        if self._folder is not None:
            self._folder.cleanup()

    def seed(self, value: Any) -> None:
        """Plant `{"people": [...]}`.

        A person is `account_id`, `customer_id`, `email`, `last_name`, further columns of `accounts`, a number of `messages`,
        and `invoices`: a list of dates on which one was issued, ISO 8601, or null where the date is missing.
        """
        for person in value["people"]:
            self._plant(person)

    def _plant(self, person: Mapping[str, Any]) -> None:
        now, account = self.clock.now(), person["account_id"]
        with self.engine.begin() as connection:
            connection.execute(delete(invoices).where(invoices.c.account_id == account))
            connection.execute(
                delete(web_forms).where(or_(web_forms.c.account_id == account, web_forms.c.email == person["email"]))
            )
            connection.execute(delete(accounts).where(accounts.c.id == account))
            row = {column: person[column] for column in _PERSON & set(person)}
            row |= {"id": account, "customer_no": person.get("customer_id"), "email": person["email"], "created_at": now}
            connection.execute(insert(accounts).values(row))
            for number in range(person.get("messages", 0)):
                # Every second one was sent without being logged in: only the address links it to the person.
                sender = {"email": person["email"], "account_id": account if number % 2 else None}
                text = {"subject": f"Question {number + 1}", "message": "Please call me back.", "sent_at": now}
                connection.execute(insert(web_forms).values(sender | text))
            for number, day in enumerate(person.get("invoices", ())):
                issued = None if day is None else date.fromisoformat(day)
                connection.execute(
                    insert(invoices).values(
                        account_id=account,
                        number=f"{account}-{number + 1}",
                        issued_on=issued,
                        amount="12.50",
                        billing_name=f"{person.get('first_name', '')} {person['last_name']}".strip(),
                    )
                )

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return a table's rows, oldest first."""
        source = metadata.tables[table]
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(source).order_by(source.c.id)).mappings()]

    def holds(self, email: str) -> int:
        """Return in how many rows an address stands, as it was planted or in lower case."""
        count = 0
        with self.engine.connect() as connection:
            for table in (accounts, web_forms):
                condition = or_(table.c.email == email, func.lower(table.c.email) == email.lower())
                count += connection.execute(select(func.count()).select_from(table).where(condition)).scalar_one()
        return count

    def state(self) -> Any:
        """Return where the database is (no password) and all rows by table."""
        return {"database": str(self.engine.url)} | {
            table: [{column: as_json(value) for column, value in row.items()} for row in self.rows(table)]
            for table in metadata.tables
        }


class _Where(ConnectorSettings):
    """The connector's own setting: both look at the same database."""

    model_config = SettingsConfigDict(env_prefix="DSR_ACCOUNTS_")

    url: SecretStr | None = None


def build(clock: Clock | None = None) -> AccountsStandIn:
    """Build the stand-in on the database of `DSR_ACCOUNTS_URL`, or on a new SQLite file that lives as long as it does."""
    url = read(_Where).url
    return AccountsStandIn(None if url is None else url.get_secret_value(), clock)

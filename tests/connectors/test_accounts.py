"""The SQL connector against real databases: the conformance suite, then what only a database with a table map does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accounts_kit import by, connected, do, planted
from sqlalchemy import event, text

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector
from connectors.sdk.testing import ADA, BOB, NOW, ZOE, ConnectorContract, Person, job_for, traces_in
from connectors.systems.accounts.connector import AccountsConnector
from connectors.systems.accounts.standin import EXAMPLE_MAP, AccountsStandIn
from connectors.systems.accounts.tablemap import Period
from schemas.errors import ConfigurationError, ConnectorError, CredentialsRefused, SystemRejected
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, NotApplicableReason, RetentionGround, Right


class TestAccountsOnSqlite(ConnectorContract):
    @contextlib.contextmanager
    def open_system(self, clock: ManualClock) -> Iterator[AccountsStandIn]:
        with tempfile.TemporaryDirectory() as folder:
            standin = AccountsStandIn(f"sqlite:///{folder}/company.db", clock)
            yield standin
            standin.close()

    def connect(self, system: AccountsStandIn) -> Connector:
        return connected(system.url)

    def plant(self, system: AccountsStandIn, person: Person, *, records: int = 1) -> None:
        system.seed({"people": [planted(person, messages=records - 1)]})

    def holds(self, system: AccountsStandIn, person: Person) -> bool:
        return system.holds(person.email) > 0


@pytest.mark.postgres
class TestAccountsOnPostgres(TestAccountsOnSqlite):
    @pytest.fixture(autouse=True)
    def _url(self, postgres_url: str) -> None:
        self.url = postgres_url

    @contextlib.contextmanager
    def open_system(self, clock: ManualClock) -> Iterator[AccountsStandIn]:
        standin = AccountsStandIn(self.url, clock)
        yield standin
        standin.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def standin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AccountsStandIn]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/company.db"
    standin = AccountsStandIn(url, ManualClock(NOW))
    yield standin
    standin.close()


@pytest.fixture
async def connector(standin: AccountsStandIn) -> Any:
    connector = connected(standin.url)
    yield connector
    await connector.aclose()


async def test_rows_that_the_law_keeps_are_kept_and_the_account_they_refer_to_is_overwritten(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """Invoices within seven years of their year's end stay, an older one goes, and no other row names the person."""
    standin.seed({"people": [planted(ADA, messages=2, invoices=["2018-05-01", "2019-01-01", "2025-06-30"]), planted(BOB)]})
    result = await do(connector, Right.ERASURE)
    assert result.outcome == Retained(
        ground=RetentionGround.LEGAL_OBLIGATION,
        until=Period(years=7, counted_from="year_end").end(NOW.date().replace(year=2025)),
        count=2,
        fulfilled=4,
        detail="AWR art. 52(4), 7 years",
    )
    assert result.notes == ("kept_in_invoices",)
    assert [row["issued_on"].year for row in standin.rows("invoices")] == [2019, 2025]
    assert standin.rows("web_forms") == []
    ada, bob = standin.rows("accounts")
    assert ada["email"].startswith("erased-")
    assert ada["email"].endswith("@erased.invalid")
    assert (ada["first_name"], ada["last_name"], ada["phone"]) == (None, "erased", None)
    assert bob["email"] == BOB.email


async def test_a_repeated_erasure_still_says_what_is_kept(connector: Connector, standin: AccountsStandIn) -> None:
    """The overwritten account is found by the hash of the address, is not overwritten again, and its invoices are named."""
    standin.seed({"people": [planted(ADA, invoices=["2025-06-30"])]})
    first = await do(connector, Right.ERASURE)
    before = standin.state()
    again = await do(connector, Right.ERASURE)
    assert isinstance(first.outcome, Retained)
    assert isinstance(again.outcome, Retained)
    assert (again.outcome.count, again.outcome.fulfilled, again.outcome.until) == (1, 0, first.outcome.until)
    assert standin.state() == before


async def test_a_row_whose_date_is_missing_is_kept_and_said_so(connector: Connector, standin: AccountsStandIn) -> None:
    """Without a date nobody can tell that the period has ended: kept without an end, with a note."""
    standin.seed({"people": [planted(ADA, invoices=[None])]})
    result = await do(connector, Right.ERASURE)
    assert isinstance(result.outcome, Retained)
    assert result.outcome.until is None
    assert "retention_date_missing" in result.notes


async def test_once_the_period_has_ended_the_rest_goes(connector: Connector, standin: AccountsStandIn) -> None:
    """An erasure after the last day deletes invoice and overwritten account, and a further one finds nothing."""
    standin.seed({"people": [planted(ADA, invoices=["2025-06-30"])]})
    await do(connector, Right.ERASURE)
    later = NOW.replace(year=2033, month=1, day=1)
    result = await do(connector, Right.ERASURE, now=later)
    assert result.outcome == Fulfilled(count=2)
    assert standin.rows("accounts") == standin.rows("invoices") == []
    assert (await do(connector, Right.ERASURE, now=later)).outcome == NothingHeld()


async def test_a_message_of_somebody_not_logged_in_is_found_by_its_address(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """Rows are found by their own column and through the account they belong to."""
    standin.seed({"people": [planted(ADA, messages=4)]})
    result = await perform(connector, job_for(Right.ACCESS, by(ADA, IdentifierKind.ACCOUNT_ID)))
    assert result.outcome == Fulfilled(count=3)
    result = await do(connector, Right.ACCESS)
    assert result.outcome == Fulfilled(count=5)


async def test_an_address_with_letters_outside_ascii_is_found_in_another_case(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """Only the address is known, and both its letters and their case differ."""
    standin.seed({"people": [planted(ZOE)]})
    job = job_for(Right.ACCESS, {IdentifierKind.EMAIL: (ZOE.email.swapcase(),)})
    assert (await perform(connector, job)).outcome == Fulfilled(count=1)


async def test_ids_are_yielded_to_other_systems(connector: Connector, standin: AccountsStandIn) -> None:
    """Access and erasure yield account id and customer number; erasure does so although the row is gone."""
    standin.seed({"people": [planted(ADA)]})
    wanted = {kind: (ADA.identifiers[kind],) for kind in (IdentifierKind.ACCOUNT_ID, IdentifierKind.CUSTOMER_ID)}
    assert (await do(connector, Right.ACCESS)).yielded == wanted
    assert (await do(connector, Right.ERASURE)).yielded == wanted
    assert standin.rows("accounts") == []


async def test_portability_gives_what_the_person_provided(connector: Connector, standin: AccountsStandIn) -> None:
    """The portable columns are fewer than those shown for access, and JSON can carry all of them."""
    standin.seed({"people": [planted(ADA, messages=1, invoices=["2025-06-30"])]})
    access, portability = await do(connector, Right.ACCESS), await do(connector, Right.PORTABILITY)
    assert {export.name for export in access.exports} == {"accounts", "web_forms", "invoices"}
    assert {export.name for export in portability.exports} == {"accounts", "web_forms"}
    invoice = next(export.content for export in access.exports if export.name == "invoices")
    assert invoice[0]["issued_on"] == "2025-06-30"  # type: ignore[index]
    assert invoice[0]["amount"] == "12.50"  # type: ignore[index]


async def test_rectification_keeps_to_the_value_the_person_meant(connector: Connector, standin: AccountsStandIn) -> None:
    """With the digest of the stored value it is changed; with another one nothing at all is changed."""
    standin.seed({"people": [planted(ADA)]})
    wrong, right = (hashlib.sha256(name.encode()).hexdigest() for name in ("Somebody-Else", ADA.last_name))
    first = FieldChange(field="first_name", new="Augusta")
    with pytest.raises(SystemRejected, match=r"accounts\.last_name: old_value_mismatch"):
        await do(connector, Right.RECTIFICATION, ADA, first, FieldChange(field="last_name", new="King", old_sha256=wrong))
    assert standin.rows("accounts")[0]["first_name"] == ADA.first_name
    asked = (first, FieldChange(field="last_name", new="King", old_sha256=right))
    for _ in range(2):
        assert (await do(connector, Right.RECTIFICATION, ADA, *asked)).outcome == Fulfilled(count=1)
    assert standin.rows("accounts")[0]["last_name"] == "King"


async def test_a_rectified_address_is_recognised_when_the_job_comes_again(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """The old address finds nobody any more, and the job's own new value shows that it was done."""
    standin.seed({"people": [planted(ADA), planted(BOB)]})
    change = FieldChange(field="email", new="augusta@example.org")
    assert (await do(connector, Right.RECTIFICATION, ADA, change)).outcome == Fulfilled(count=1)
    again = await do(connector, Right.RECTIFICATION, ADA, change)
    assert again.outcome == Fulfilled(count=1)
    assert again.notes == ("rectified_before",)
    assert [row["email"] for row in standin.rows("accounts")] == ["augusta@example.org", BOB.email]


async def test_completion_fills_what_is_empty_and_overwrites_nothing(connector: Connector, standin: AccountsStandIn) -> None:
    """An empty column is filled; a column that holds something else is refused and named."""
    standin.seed({"people": [planted(ADA)]})
    city = FieldChange(field="city", new="Breda")
    for _ in range(2):
        assert (await do(connector, Right.COMPLETION, ADA, city)).outcome == Fulfilled(count=1)
    with pytest.raises(SystemRejected, match=r"accounts\.city: already_filled"):
        await do(connector, Right.COMPLETION, ADA, FieldChange(field="city", new="Delft"))
    assert standin.rows("accounts")[0]["city"] == "Breda"


async def test_fields_that_no_table_has_are_named_as_such(connector: Connector, standin: AccountsStandIn) -> None:
    """All unknown: not offered here. Some unknown: the others are done, with a note."""
    standin.seed({"people": [planted(ADA)]})
    shoe, city = FieldChange(field="shoe_size", new="38"), FieldChange(field="city", new="Breda")
    alone = await do(connector, Right.RECTIFICATION, ADA, shoe)
    assert alone.outcome == NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
    assert alone.notes == ("no_field_mapped",)
    assert (await do(connector, Right.RECTIFICATION, ADA, shoe, city)).notes == ("field_not_mapped",)


async def test_a_value_too_long_for_its_column_is_refused_before_it_is_cut(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """No database truncates in silence, and the error names the column and not the value."""
    standin.seed({"people": [planted(ADA)]})
    with pytest.raises(SystemRejected, match=r"accounts\.zip_code: value_unfit") as caught:
        await do(connector, Right.RECTIFICATION, ADA, FieldChange(field="postal_code", new="4811-" * 20))
    assert "4811" not in str(caught.value)


async def test_objection_and_unsubscribe_set_their_own_flags(connector: Connector, standin: AccountsStandIn) -> None:
    """Unsubscribe ends the newsletter, objection all marketing, restriction marks the row; each may be repeated."""
    standin.seed({"people": [planted(ADA)]})
    flags = ("newsletter", "marketing_allowed", "processing_restricted")
    seen = []
    for right in (Right.UNSUBSCRIBE, Right.OBJECTION, Right.RESTRICTION, Right.RESTRICTION):
        assert (await do(connector, right)).outcome == Fulfilled(count=1)
        seen.append(tuple(standin.rows("accounts")[0][flag] for flag in flags))
    assert seen == [(False, True, False), (False, False, False), (False, False, True), (False, False, True)]


async def test_an_overwritten_row_is_not_written_to_again(connector: Connector, standin: AccountsStandIn) -> None:
    """A rectification after an erasure does not put the name back into the account that an invoice keeps."""
    standin.seed({"people": [planted(ADA, invoices=["2025-06-30"])]})
    await do(connector, Right.ERASURE)
    result = await do(connector, Right.RECTIFICATION, ADA, FieldChange(field="last_name", new="King"))
    assert result.outcome == NothingHeld()
    assert standin.rows("accounts")[0]["last_name"] == "erased"


async def test_a_failure_in_the_middle_changes_nothing(connector: AccountsConnector, standin: AccountsStandIn) -> None:
    """The statement that deletes the account fails: the messages deleted before it are still there."""
    standin.seed({"people": [planted(ADA, messages=2)]})
    before = standin.state()

    def explode(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM accounts"):
            cursor.execute("SELECT * FROM no_such_table")

    event.listen(connector._client.engine, "before_cursor_execute", explode)
    with pytest.raises(ConnectorError) as caught:
        await do(connector, Right.ERASURE)
    assert not traces_in(str(caught.value), ADA)
    assert standin.state() == before
    event.remove(connector._client.engine, "before_cursor_execute", explode)
    assert (await do(connector, Right.ERASURE)).outcome == Fulfilled(count=3)


async def test_a_constraint_of_the_database_is_a_refusal_that_names_nobody(
    connector: Connector, standin: AccountsStandIn
) -> None:
    """A table the map does not know refers to the account: nothing is erased, and `check` names the foreign key."""
    standin.seed({"people": [planted(ADA, messages=1)]})
    before = standin.state()
    assert "3 tables" in await connector.check()
    with standin.engine.begin() as connection:
        connection.execute(text("CREATE TABLE loyalty (id INTEGER PRIMARY KEY, owner VARCHAR(40) REFERENCES accounts (id))"))
        connection.execute(text("INSERT INTO loyalty VALUES (1, :owner)"), {"owner": standin.rows("accounts")[0]["id"]})
    with pytest.raises(SystemRejected, match="constraint_refused") as caught:
        await do(connector, Right.ERASURE)
    assert not traces_in(str(caught.value), ADA)
    assert standin.state() == before
    with pytest.raises(ConfigurationError, match=r"loyalty: foreign key \(owner\) refers to accounts"):
        await connector.check()


async def test_check_says_which_column_the_database_lacks(standin: AccountsStandIn, tmp_path: Path) -> None:
    """Everything that does not fit is named in one message, by table and column."""
    value = yaml.safe_load(EXAMPLE_MAP.read_text())
    value["tables"]["accounts"]["rectify"]["nickname"] = "nick"
    value["tables"]["accounts"]["erase"]["set"]["last_name"] = None
    value["tables"]["orders"] = {"key": ["id"], "belongs_to": [{"table": "accounts", "column": "account_id"}]}
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump(value))
    connector = connected(standin.url, path)
    with pytest.raises(ConfigurationError) as caught:
        await connector.check()
    for part in (
        "accounts.rectify.nickname: no column 'nick'",
        "accounts.erase.set: column 'last_name' cannot be null",
        "orders: no such table",
    ):
        assert part in str(caught.value)
    with pytest.raises(SystemRejected):
        await do(connector, Right.ACCESS)
    await connector.aclose()


@pytest.mark.postgres
async def test_two_erasures_at_once_do_not_disturb_each_other(postgres_url: str) -> None:
    """Row locks let one go first; the other finds nothing, and neither fails."""
    standin = AccountsStandIn(postgres_url, ManualClock(NOW))
    standin.seed({"people": [planted(ADA, messages=6)]})
    first, second = connected(postgres_url), connected(postgres_url)
    results = await asyncio.gather(*(do(connector, Right.ERASURE) for connector in (first, second)))
    outcomes = sorted(type(result.outcome).__name__ for result in results)
    assert outcomes in (["Fulfilled", "NothingHeld"], ["Fulfilled", "Fulfilled"])
    assert sum(getattr(result.outcome, "count", 0) for result in results) == 7
    assert standin.holds(ADA.email) == 0
    await first.aclose()
    await second.aclose()
    standin.close()


@pytest.mark.postgres
async def test_a_change_under_way_is_waited_for_before_the_old_value_is_judged(postgres_url: str) -> None:
    """Somebody else's transaction changes the name first: the guard sees the new name and refuses."""
    standin = AccountsStandIn(postgres_url, ManualClock(NOW))
    standin.seed({"people": [planted(ADA)]})
    connector = connected(postgres_url)
    guarded = FieldChange(field="last_name", new="King", old_sha256=hashlib.sha256(ADA.last_name.encode()).hexdigest())
    with standin.engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET last_name = 'Byron'"))
        task = asyncio.create_task(do(connector, Right.RECTIFICATION, ADA, guarded))
        async with asyncio.timeout(20):
            while not _waits_for_a_lock(standin):  # noqa: ASYNC110 - a database has no event to await
                await asyncio.sleep(0.02)
    with pytest.raises(SystemRejected, match="old_value_mismatch"):
        await task
    assert standin.rows("accounts")[0]["last_name"] == "Byron"
    await connector.aclose()
    standin.close()


def _waits_for_a_lock(standin: AccountsStandIn) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with standin.engine.connect() as connection:
        return connection.execute(text(waiting)).scalar_one() > 0


@pytest.mark.postgres
async def test_a_missing_grant_is_the_owners_to_mend(postgres_url: str) -> None:
    """A role that may read and not delete gets CredentialsRefused."""
    standin = AccountsStandIn(postgres_url, ManualClock(NOW))
    standin.seed({"people": [planted(ADA)]})
    role = f"reader_{standin.engine.url.database}"
    with standin.engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    connector = connected(standin.engine.url.set(username=role).render_as_string(hide_password=False))
    assert (await do(connector, Right.ACCESS)).outcome == Fulfilled(count=1)
    with pytest.raises(CredentialsRefused) as caught:
        await do(connector, Right.ERASURE)
    assert not traces_in(str(caught.value), ADA)
    await connector.aclose()
    with standin.engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))
    standin.close()

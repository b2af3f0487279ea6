"""The table map, the settings and the stand-in of the SQL connector."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from accounts_kit import connected, do, planted

from connectors.sdk.clock import ManualClock
from connectors.sdk.loader import build_connector, build_standin
from connectors.sdk.standin import serve
from connectors.sdk.testing import ADA, NOW
from connectors.systems.accounts.client import AccountsClient
from connectors.systems.accounts.connector import AccountsSettings, build
from connectors.systems.accounts.standin import EXAMPLE_MAP, PSEUDONYM_KEY, AccountsStandIn
from connectors.systems.accounts.tablemap import Period, load_table_map, parse_table_map
from schemas.errors import ConfigurationError, SystemUnavailable
from schemas.outcomes import Fulfilled
from schemas.sealed import SealingKey
from schemas.vocabulary import Right


async def test_a_database_that_does_not_answer_is_tried_later() -> None:
    """Nobody listens: SystemUnavailable, without the address in its text."""
    connector = connected("postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(SystemUnavailable) as caught:
        await do(connector, Right.ACCESS)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None or "secret" not in str(caught.value.__context__)
    await connector.aclose()


def test_a_url_without_a_driver_is_a_configuration_error() -> None:
    """The setting is named; its value, which may hold a password, is not."""
    with pytest.raises(ConfigurationError, match="DSR_ACCOUNTS_URL") as caught:
        AccountsClient("nosuchdb://user:secret@host/db", load_table_map(EXAMPLE_MAP), pseudonym_key=SealingKey("k", bytes(32)))
    assert "secret" not in str(caught.value)


async def test_everything_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Found by name, and built from variables alone; the stand-in makes the very database the connector reads."""
    monkeypatch.setenv("DSR_ACCOUNTS_URL", f"sqlite:///{tmp_path}/company.db")
    monkeypatch.setenv("DSR_ACCOUNTS_TABLE_MAP", str(EXAMPLE_MAP))
    monkeypatch.setenv("DSR_ACCOUNTS_PSEUDONYM_KEY", PSEUDONYM_KEY)
    standin = build_standin("accounts", ManualClock(NOW))
    standin.seed({"people": [planted(ADA)]})
    connector = build_connector("accounts")
    assert (await do(connector, Right.ACCESS)).outcome == Fulfilled(count=1)
    await connector.aclose()
    monkeypatch.setenv("DSR_ACCOUNTS_TABLE_MAP", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigurationError, match=r"none\.yaml.*DSR_ACCOUNTS_TABLE_MAP"):
        build_connector("accounts")


def test_a_stand_in_without_a_url_makes_a_database_that_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is told in the state, and the file is gone once it is closed."""
    monkeypatch.delenv("DSR_ACCOUNTS_URL", raising=False)
    standin = build_standin("accounts", ManualClock(NOW))
    assert isinstance(standin, AccountsStandIn)
    file = Path(standin.state()["database"].removeprefix("sqlite:///"))
    assert file.exists()
    standin.close()
    assert not file.exists()


def test_a_map_that_hashes_needs_a_key() -> None:
    """Without the key the process does not start."""
    with pytest.raises(ConfigurationError, match="DSR_ACCOUNTS_PSEUDONYM_KEY"):
        build(AccountsSettings(url="sqlite://", table_map=EXAMPLE_MAP))


PERSON = [{"column": "email", "kind": "email"}]


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"a": {"key": ["id"]}}, "a.person: name a column"),
        ({"a": {"key": ["id"], "person": PERSON, "rectify": {"id": "id"}}}, "a.rectify.id: column 'id' is part of the key"),
        ({"a": {"key": ["id"], "person": PERSON, "colour": 1}}, "tables.a.colour: Extra inputs"),
        ({"a": {"key": ["id"], "person": PERSON, "erase": {"how": "pseudonymise"}}}, "a.erase.set: name the columns"),
        (
            {"a": {"key": ["id"], "person": PERSON, "erase": {"how": "pseudonymise", "set": {"name": "x"}}}},
            "a.erase.set: column 'email' names the person",
        ),
        (
            {"a": {"key": ["id"], "person": PERSON, "belongs_to": [{"table": "b", "column": "b_id"}]}},
            "a.belongs_to: column 'b_id' refers to table 'b', which is not mapped",
        ),
        (
            {
                "a": {"key": ["id"], "person": PERSON},
                "i": {
                    "key": ["id"],
                    "belongs_to": [{"table": "a", "column": "a_id"}],
                    "retain": {"ground": "art17_3_b", "until": "2030-01-01"},
                },
            },
            "give a.erase.set the columns",
        ),
        (
            {
                "a": {"key": ["id"], "person": PERSON, "belongs_to": [{"table": "b", "column": "b_id"}]},
                "b": {"key": ["id"], "belongs_to": [{"table": "a", "column": "a_id"}]},
            },
            "belongs_to runs in a circle",
        ),
        (
            {"a": {"key": ["id"], "person": PERSON, "retain": {"ground": "art17_3_b", "column": "day"}}},
            "tables.a.retain: name either `column` and `period`, or `until`",
        ),
        ({"a": {"key": ["id"], "person": PERSON, "portable": ["name"]}}, "a.portable: column 'name' is not in export"),
    ],
)
def test_a_wrong_map_is_refused_with_table_and_column(tables: dict[str, Any], complaint: str) -> None:
    """Each mistake is named by its place."""
    with pytest.raises(ConfigurationError) as caught:
        parse_table_map({"tables": tables}, name="map.yaml")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (Period(years=7), "2019-02-28", "2026-02-28"),
        (Period(years=1), "2024-02-29", "2025-02-28"),
        (Period(years=7, counted_from="year_end"), "2019-01-01", "2026-12-31"),
        (Period(months=13), "2025-01-31", "2026-02-28"),
        (Period(days=90), "2026-01-01", "2026-04-01"),
    ],
)
def test_a_period_ends_on_the_day_that_the_rule_means(period: Period, start: str, end: str) -> None:
    """Months without that day end on their last one."""
    assert period.end(date.fromisoformat(start)) == date.fromisoformat(end)


async def test_the_stand_in_plants_and_shows_over_http(tmp_path: Path) -> None:
    """It is inspected as every other stand-in is."""
    standin = AccountsStandIn(f"sqlite:///{tmp_path}/company.db", ManualClock(NOW))
    with serve(standin) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/__seed__", json={"people": [planted(ADA, messages=1)]})).status_code == 204
            state = (await client.get("/__state__")).json()["state"]
    assert state["accounts"][0]["email"] == ADA.email
    assert len(state["web_forms"]) == 1
    standin.close()

"""The web forms as a system of their own: the accounts connector with a smaller map."""

from __future__ import annotations

from pathlib import Path

import pytest
from accounts_kit import connected, do, planted

from connectors.sdk.testing import ADA, BOB
from connectors.systems.accounts import standin
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.vocabulary import NotApplicableReason, Right

MAP = Path(standin.__file__).with_name("example-web-forms-map.yaml")


@pytest.fixture
def company():
    company = standin.AccountsStandIn()
    company.seed({"people": [planted(ADA, messages=2), planted(BOB, messages=1)]})
    yield company
    company.close()


async def test_the_messages_go_and_the_accounts_stay(company):
    """Erasure by address takes every message of the person, with or without an account, and nothing else; a repeat is done."""
    connector = connected(company.url, MAP)
    assert await connector.check()
    assert (await do(connector, Right.ACCESS)).outcome == Fulfilled(count=2)
    assert (await do(connector, Right.ERASURE)).outcome == Fulfilled(count=2)
    assert (await do(connector, Right.ERASURE)).outcome == NothingHeld()
    await connector.aclose()
    assert [row["email"] for row in company.rows("web_forms")] == [BOB.email]
    assert len(company.rows("accounts")) == 2


async def test_what_the_registry_leaves_out_is_not_offered(company):
    """The map has no columns for correction or restriction, as the registry says."""
    connector = connected(company.url, MAP)
    for right in (Right.RESTRICTION, Right.OBJECTION):
        assert (await do(connector, right)).outcome.reason is NotApplicableReason.RIGHT_NOT_OFFERED
    await connector.aclose()

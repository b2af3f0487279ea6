"""Example people for the company's database, and a connector to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector, Result
from connectors.sdk.testing import ADA, Person, job_for
from connectors.systems.accounts.connector import AccountsConnector, AccountsSettings, build
from connectors.systems.accounts.standin import EXAMPLE_MAP, PSEUDONYM_KEY
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, Right


def planted(person: Person, **more: Any) -> dict[str, Any]:
    """What the stand-in is told of a person."""
    return {
        "account_id": person.identifiers[IdentifierKind.ACCOUNT_ID],
        "customer_id": person.identifiers[IdentifierKind.CUSTOMER_ID],
        "email": person.email,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "phone": person.phone,
        **more,
    }


def connected(url: str, table_map: Path = EXAMPLE_MAP) -> AccountsConnector:
    return build(AccountsSettings(url=url, table_map=table_map, pseudonym_key=PSEUDONYM_KEY))


def by(person: Person, *kinds: IdentifierKind) -> dict[IdentifierKind, tuple[str, ...]]:
    return person.known_by(*kinds or (IdentifierKind.EMAIL,))


async def do(connector: Connector, right: Right, person: Person = ADA, *changes: FieldChange, **more: Any) -> Result:
    return await perform(connector, job_for(right, by(person), changes=changes, **more))

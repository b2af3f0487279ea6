"""What is planted where a system needs more than a line to say it: bodies of the stand-ins' `/__seed__`.

Room rules: pure functions of the people and of today's date.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from orchestrator.demo.people import Person

__all__ = ["accounts", "contacts", "disclosures", "letters", "log_lines", "members"]


def contacts(people: Sequence[Person]) -> Any:
    """Return contacts, whose properties hold the ids of other systems."""
    return {
        "contacts": [
            {
                "email": p.email, "firstname": p.alias, "lastname": p.last_name, "phone": p.phone, "address": p.street,
                "city": "Riverside", "ga_client_id": p.ga_client_id, "hotjar_user_id": p.hotjar_user_id,
                "account_id": p.account_id,
            }
            for p in people
        ]
    }  # fmt: skip


def _invoices(person: Person) -> list[str]:
    """Return two days of issue for a few people: one that tax law keeps, or one that it no longer does."""
    year = date.today().year  # noqa: DTZ011 - a year that is over; the zone does not matter
    return {"Lea": [f"{year - 1}-06-15", f"{year - 9}-06-15"], "Max": [f"{year - 9}-06-15"], "Zoe": [f"{year - 1}-03-01"]}.get(
        person.alias, []
    )


def accounts(people: Sequence[Person]) -> Any:
    """Return accounts, with messages of the web forms for every other person and invoices for a few."""
    return {
        "people": [
            {
                "account_id": p.account_id, "customer_id": p.customer_id, "email": p.email, "first_name": p.alias,
                "last_name": p.last_name, "phone": p.phone or None, "street": p.street, "city": "Riverside",
                "messages": p.number % 2, "invoices": _invoices(p),
            }
            for p in people
        ]
    }  # fmt: skip


def members(people: Sequence[Person]) -> Any:
    """Return members of the newsletter."""
    return {
        "members": [
            {
                "email_address": p.email,
                "merge_fields": {
                    "FNAME": p.alias, "LNAME": p.last_name, "PHONE": p.phone,
                    "ADDRESS": {"addr1": p.street, "city": "Riverside", "state": "-", "zip": "0000"},
                },
            }
            for p in people
        ]
    }  # fmt: skip


def log_lines(people: Sequence[Person]) -> Any:
    """Return two visits of each person on two days, and one of a robot."""
    days = [f"{date.today() - timedelta(days=n)}T09:30:00+00:00" for n in (2, 3)]  # noqa: DTZ011 - some days ago
    visits = [
        {
            "ip_address": p.ip_address, "cookie_id": p.cookie_id, "account_id": p.account_id, "at": day,
            "file": f"access.log-{day[:10].replace('-', '')}", "request": f"GET /page/{p.number} HTTP/1.1",
        }
        for day in days
        for p in people
    ]  # fmt: skip
    robot = {"ip_address": "192.0.2.7", "user_agent": "robot", "at": days[0], "file": visits[0]["file"]}
    return {"lines": [*visits, robot]}


def letters(people: Sequence[Person]) -> Any:
    """Return a question of each person to the support mailbox, the answer, and a message of a stranger."""
    support = "support@example.org"
    questions = [
        {"from": f"{p.alias} {p.last_name} <{p.email}>", "subject": "My contract", "text": f"{p.phone}, {p.street}"}
        for p in people
    ]
    answers = [{"from": support, "to": p.email, "subject": "Re: My contract", "folder": "Sent"} for p in people]
    return {"messages": [*questions, *answers, {"from": "vendor@example.net", "text": "Spring offers"}]}


def disclosures(people: Sequence[Person]) -> Any:
    """Return what the tax office was given."""
    return {
        "disclosures": [
            {
                "recipient": "Tax office", "disclosed_on": "2026-01-15", "categories": ["invoices"],
                "ground": "legal_obligation", "reference": f"file {p.number}",
                "identifiers": {"customer_id": [p.customer_id], "email": [p.email]},
            }
            for p in people
        ]
    }  # fmt: skip

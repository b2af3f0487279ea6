"""The systems of the example company, one entry each: id in the registry -> how to start, plant and inspect it.

The credentials are those that the stand-ins take and nobody else; each connector's README explains its settings.

Room rules: data, and one-line functions of data. A further system is one further entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from orchestrator.demo import planting
from orchestrator.demo.cast import Place, Record, Role
from orchestrator.settings import DEPLOY
from schemas.vocabulary import Right

__all__ = ["ROLES"]

_SYSTEMS = DEPLOY.parent / "connectors" / "systems"
_BOTH = (Right.OBJECTION, Right.UNSUBSCRIBE)
_LOG_COLUMNS = (
    '["ip_address", "ident", "user", "time", "request", "status", "bytes", "referer", "user_agent", "cookie_id", "account_id"]'
)


def _every(nth: int, rest: int) -> Any:
    return lambda person: person.number % nth == rest


def _contact_records(state: Any) -> list[Record]:
    return [
        {**contact, "mail": "off" if contact["email"] in state["off_all"] else "on"} for contact in state["contacts"].values()
    ]


def _rows(*tables: str) -> Any:
    return lambda state: [{"table": table, **row} for table in tables for row in state[table]]


_ERASED_ACCOUNT = {
    "email": "erased", "first_name": None, "last_name": "erased", "phone": None, "street": None, "zip_code": None, "city": None,
    "country": None, "marketing_allowed": False, "newsletter": False,
}  # fmt: skip


def _kept_by_tax_law(before: Iterable[Record]) -> list[Record]:
    """Return invoices of the last seven years, and the overwritten account that they refer to."""
    records = list(before)
    oldest = f"{date.today().year - 7}-01-01"  # noqa: DTZ011 - as above
    kept = [record for record in records if record["table"] == "invoices" and record["issued_on"] >= oldest]
    accounts = [record | _ERASED_ACCOUNT for record in records if record["table"] == "accounts"]
    return [*accounts, *kept] if kept else []


def _without_pseudonym(record: Record) -> Record:
    is_erased = re.fullmatch(r"erased-[0-9a-f]+@erased\.invalid", str(record.get("email")))
    return record | {"email": "erased"} if is_erased else record


def _member_records(state: Any) -> list[Record]:
    return [member for audience in state["audiences"].values() for member in audience["members"].values()]


def _subsidiary(code: str, rest: int) -> Role:
    return Role(
        connector="opendsr",
        code=code,
        holds=_every(2, rest),
        switches={"pending_seconds": 0, "work_seconds": 0.5},
        seed=lambda people: {
            "people": [
                {"customer_id": p.customer_id, "email": p.email, "fields": {"last_name": p.last_name}, "records": 2}
                for p in people
            ]
        },
        fetches={"/ca.pem": "ca.pem"},
        settings=lambda place: {
            "DSR_OPENDSR_BASE_URL": f"{place.url}/v2",
            "DSR_OPENDSR_TOKEN": "opendsr-standin-token",
            "DSR_OPENDSR_SIGNATURES": "required",
            "DSR_OPENDSR_CA_FILE": str(place.folder / "ca.pem"),
            "DSR_OPENDSR_PROCESSOR_DOMAINS": '["opendsr.subsidiary.example.org"]',
        },
        records=lambda state: list(state["people"]),
    )


def _accounts_settings(table_map: str) -> Any:
    return lambda place: {
        **_database(place),
        "DSR_ACCOUNTS_TABLE_MAP": str(_SYSTEMS / "accounts" / table_map),
        "DSR_ACCOUNTS_PSEUDONYM_KEY": place.key,
    }


def _database(place: Place) -> dict[str, str]:
    return {"DSR_ACCOUNTS_URL": f"sqlite:///{place.folder / 'company.db'}"}


def _log_records(state: Any) -> list[Record]:
    return [{"file": name, "line": line} for name, text in state["files"].items() for line in text.splitlines()]


def _weblogs(place: Place) -> dict[str, str]:
    return {
        "DSR_WEBLOGS_FOLDERS": f'["{place.folder}"]',
        "DSR_WEBLOGS_COLUMNS": _LOG_COLUMNS,
        "DSR_WEBLOGS_QUIET_SECONDS": "0",
    }


def _cookies(place: Place) -> dict[str, str]:
    return {"DSR_COOKIES_URL": f"sqlite:///{place.folder / 'cookies.sqlite'}", "DSR_COOKIES_KEY": place.key}


def _told_to_forget(before: Iterable[Record]) -> list[Record]:
    return [record | {"opt_out": True} for record in before]


def _without_list(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "expire"}


def _office(place: Place) -> dict[str, str]:
    return {
        "DSR_MANUAL_TITLE": "Event registration",
        "DSR_MANUAL_KEY": place.key,
        "DSR_MANUAL_OUTBOX": str(place.folder / "outbox"),
        "DSR_MANUAL_INBOX": str(place.folder / "inbox"),
    }


def _ledger(place: Place) -> dict[str, str]:
    return {
        "DSR_LEDGER_PATH": str(place.folder / "ledger.sqlite"),
        "DSR_LEDGER_OUTBOX": str(place.folder / "outbox"),
        "DSR_LEDGER_KEY": place.key,
    }


def _mailbox(place: Place) -> dict[str, str]:
    return {
        "DSR_MAILBOX_HOST": "127.0.0.1",
        "DSR_MAILBOX_PORT": str(json.loads((place.folder / "ports.json").read_text())["ssl"]),
        "DSR_MAILBOX_CA_FILE": str(place.folder / "ca.pem"),
        "DSR_MAILBOX_USERNAME": "support@example.org",
        "DSR_MAILBOX_PASSWORD": "stand-in-password",
        "DSR_MAILBOX_OWN_ADDRESSES": '["support@example.org"]',
    }


#: Id of a system in the registry -> its part in the demo.
ROLES: Mapping[str, Role] = {
    "crm": Role(
        connector="hubspot",
        code="cr",
        seed=planting.contacts,
        settings=lambda place: {
            "DSR_HUBSPOT_BASE_URL": place.url,
            "DSR_HUBSPOT_TOKEN": "pat-standin-0000",
            "DSR_HUBSPOT_CALLS_PER_SECOND": "100",
        },
        records=_contact_records,
        fields={"phone": "phone", "city": "city", "last_name": "lastname"},
        silent={right: {"mail": "off"} for right in _BOTH},
    ),
    "accounts": Role(
        connector="accounts",
        code="ac",
        seed=planting.accounts,
        standin_settings=_database,
        settings=_accounts_settings("example-map.yaml"),
        records=_rows("accounts", "invoices"),
        erased=_kept_by_tax_law,
        neutral=_without_pseudonym,
        fields={"phone": "phone", "city": "city", "last_name": "last_name"},
        silent={Right.OBJECTION: {"marketing_allowed": False, "newsletter": False}, Right.UNSUBSCRIBE: {"newsletter": False}},
    ),
    "newsletter": Role(
        connector="mailchimp",
        code="nl",
        seed=planting.members,
        settings=lambda place: {
            "DSR_MAILCHIMP_BASE_URL": f"{place.url}/3.0",
            "DSR_MAILCHIMP_API_KEY": "0123456789abcdef0123456789abcdef-us21",
        },
        records=_member_records,
        fields={"phone": "merge_fields.PHONE", "city": "merge_fields.ADDRESS.city", "last_name": "merge_fields.LNAME"},
        silent={right: {"status": "unsubscribed"} for right in _BOTH},
    ),
    "google-analytics": Role(
        connector="google_analytics",
        code="ga",
        # The vendor purges after two months; here after two seconds.
        switches={"purge_after_seconds": 2},
        seed=lambda people: {"visitors": [{"client_id": p.ga_client_id, "visits": 3} for p in people]},
        settings=lambda place: {
            "DSR_GOOGLE_ANALYTICS_PROPERTY_ID": "123456789",
            "DSR_GOOGLE_ANALYTICS_ACCESS_TOKEN": "stand-in-static-token",
            "DSR_GOOGLE_ANALYTICS_DELETION_URL": f"{place.url}/analytics/v3",
            "DSR_GOOGLE_ANALYTICS_ADMIN_URL": f"{place.url}/v1alpha",
            "DSR_GOOGLE_ANALYTICS_PURGE_HORIZON_SECONDS": "2",
            "DSR_GOOGLE_ANALYTICS_CALLS_PER_SECOND": "50",
        },
        records=lambda state: list(state["visitors"]),
    ),
    "subsidiary-one": _subsidiary("s1", 1),
    "subsidiary-two": _subsidiary("s2", 0),
    "web-forms": Role(
        connector="accounts",
        code="wf",
        partner="accounts",
        seed=lambda _: None,
        settings=_accounts_settings("example-web-forms-map.yaml"),
        records=_rows("web_forms"),
    ),
    "web-logs": Role(
        connector="weblogs",
        code="wl",
        seed=planting.log_lines,
        standin_settings=_weblogs,
        settings=_weblogs,
        records=_log_records,
    ),
    "cookies": Role(
        connector="cookies",
        code="co",
        seed=lambda people: {
            "visits": [
                {"cookie_id": p.cookie_id, "account_id": p.account_id, "email": p.email, "ga_client_id": p.ga_client_id}
                for p in people
            ]
        },
        standin_settings=_cookies,
        settings=_cookies,
        asks=lambda person: f"/opt-out?cookie_id={person.cookie_id}",
        erased=_told_to_forget,
        neutral=_without_list,
        silent={Right.OBJECTION: {"opt_out": True}},
        tallies=lambda state: {"browsers": state["browsers"]},
        moves={Right.ERASURE: {"browsers": -1}},
    ),
    "chat": Role(
        connector="intercom",
        code="ch",
        holds=_every(3, 0),
        seed=lambda people: {
            "contacts": [
                {
                    "email": p.email,
                    "external_id": p.account_id,
                    "name": f"{p.alias} {p.last_name}",
                    "phone": p.phone or None,
                    "conversations": [["Where is my order?"]],
                }
                for p in people
            ]
        },
        settings=lambda place: {"DSR_INTERCOM_BASE_URL": place.url, "DSR_INTERCOM_TOKEN": "intercom-standin-token"},
        records=lambda state: list(state["contacts"]),
        fields={"phone": "phone"},
        silent={right: {"unsubscribed_from_emails": True} for right in _BOTH},
        tallies=lambda state: {"conversations": len(state["conversations"])},
        moves={Right.ERASURE: {"conversations": -1}},
    ),
    "support-mailbox": Role(
        connector="mailbox",
        code="sm",
        holds=_every(2, 0),
        seed=planting.letters,
        fetches={"/ports": "ports.json", "/ca.pem": "ca.pem"},
        settings=_mailbox,
        records=lambda state: list(state["messages"]),
    ),
    "events": Role(
        connector="manual",
        code="ev",
        holds=_every(4, 1),
        seed=lambda people: {
            "records": [
                {"email": p.email, "last_name": p.last_name, "phone": p.phone, "city": "Riverside", "event": "Open day"}
                for p in people
            ]
        },
        standin_settings=_office,
        settings=_office,
        staff="/work",
        records=lambda state: list(state["records"]),
        fields={"phone": "phone", "city": "city", "last_name": "last_name"},
    ),
    "eventbrite": Role(
        connector="eventbrite",
        code="eb",
        holds=_every(4, 2),
        seed=lambda people: {
            "registrations": [{"email": p.email, "first_name": p.alias, "last_name": p.last_name} for p in people]
        },
        settings=lambda place: {
            "DSR_EVENTBRITE_BASE_URL": place.url,
            "DSR_EVENTBRITE_TOKEN": "stand-in-private-token",
            "DSR_EVENTBRITE_CALLS_PER_SECOND": "50",
        },
        staff="/work",
        records=lambda state: [*state["attendees"], *state["orders"]],
    ),
    "unbounce": Role(
        connector="unbounce",
        code="ub",
        holds=_every(3, 1),
        switches={"deletion_seconds": 0.5},
        seed=lambda people: {"leads": [{"form": {"email": p.email, "name": f"{p.alias} {p.last_name}"}} for p in people]},
        settings=lambda place: {
            "DSR_UNBOUNCE_BASE_URL": place.url,
            "DSR_UNBOUNCE_TOKEN_URL": f"{place.url}/oauth/token",
            "DSR_UNBOUNCE_OAUTH_CLIENT_ID": "stand-in-client",
            "DSR_UNBOUNCE_OAUTH_CLIENT_SECRET": "stand-in-client-secret",
            "DSR_UNBOUNCE_REFRESH_TOKEN": "stand-in-refresh-token-0",
            "DSR_UNBOUNCE_CALLS_PER_SECOND": "40",
        },
        records=lambda state: [lead for leads in state["pages"].values() for lead in leads],
    ),
    "hotjar": Role(
        connector="hotjar",
        code="hj",
        holds=_every(2, 0),
        switches={"mode": "inline", "purge_after_seconds": 2},
        seed=lambda people: {
            "hits": [{"user_id": p.hotjar_user_id, "type": "recording"} for p in people]
            + [{"email": p.email, "type": "survey", "content": "Nice page"} for p in people]
        },
        settings=lambda place: {
            "DSR_HOTJAR_BASE_URL": place.url,
            "DSR_HOTJAR_ORGANIZATION_ID": "4711",
            "DSR_HOTJAR_CLIENT_ID": "stand-in-client",
            "DSR_HOTJAR_CLIENT_SECRET": "stand-in-client-secret",
            "DSR_HOTJAR_SITE_IDS": '["12345"]',
            "DSR_HOTJAR_MODE": "inline",
            "DSR_HOTJAR_PURGE_HORIZON_SECONDS": "2",
        },
        records=lambda state: list(state["hits"]),
    ),
    "linkedin": Role(
        connector="linkedin",
        code="li",
        seed=lambda people: {"members": [{"email": p.email} for p in people]},
        settings=lambda place: {
            "DSR_LINKEDIN_BASE_URL": place.url,
            "DSR_LINKEDIN_API_VERSION": "202606",
            "DSR_LINKEDIN_ACCOUNT_IDS": '["501", "502"]',
            "DSR_LINKEDIN_ACCESS_TOKEN": "stand-in-static-token",
            "DSR_LINKEDIN_CALLS_PER_SECOND": "50",
        },
        records=lambda state: [
            {"audience": one["id"], "member": member} for one in state["segments"] for member in one["members"]
        ],
        gone_after_objection=True,
        cannot_tell=True,
    ),
    "authorities": Role(
        connector="ledger",
        code="au",
        holds=_every(5, 0),
        seed=planting.disclosures,
        standin_settings=_ledger,
        settings=_ledger,
        records=lambda _: [],
        tallies=lambda state: {"letters": len(state["outbox"])},
        moves={right: {"letters": 1} for right in (Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE)},
    ),
}

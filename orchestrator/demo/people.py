"""The people of the demo: forty that the example company knows, each under the same ids in every system, and one stranger.

Room rules: plain values, the same ones for the same marker; addresses on example.org, telephone numbers and IP addresses from
the ranges that are reserved for fiction and documentation (Ofcom's 01632 960xxx, RFC 5737).
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

__all__ = ["ALIASES", "STRANGER", "Person", "people"]

#: What the demo calls them.
ALIASES = (
    "Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "Jon", "Kim", "Lea", "Max", "Nia", "Oto", "Pia", "Quin",
    "Rosa", "Sam", "Tom", "Uma", "Vera", "Will", "Xena", "Yan", "Zoe", "Aki", "Bo", "Cai", "Dora", "Eli", "Fay", "Gil", "Hugo",
    "Ines", "Jill", "Karl", "Luz", "Mia", "Ned",
)  # fmt: skip
#: Somebody whom no system knows.
STRANGER = "Nobody"
#: Whose telephone number no system has.
_WITHOUT_PHONE = frozenset({"Hana", "Ivan"})


@dataclass(frozen=True, slots=True)
class Person:
    """One person and all that leads to them. `number` counts from 1; 0 is the stranger."""

    alias: str
    number: int
    marker: str

    @property
    def email(self) -> str:
        """Return the address, whose domain bears the marker."""
        return f"{self.alias.lower()}@{self.marker}.example.org"

    @property
    def last_name(self) -> str:
        """Return a name that nobody bears."""
        return f"Van {self.marker.title()} {self.number:02d}"

    @property
    def phone(self) -> str:
        """Return a number from a range that is reserved for fiction; empty where none is known."""
        if self.alias in _WITHOUT_PHONE:
            return ""
        return f"+441632960{self.number:03d}"

    @property
    def street(self) -> str:
        """Return street and number."""
        return f"{self.marker.title()} Street {self.number:02d}"

    @property
    def account_id(self) -> str:
        """Return the id of the website's account."""
        return f"{self.marker}-acc-{self.number:02d}"

    @property
    def customer_id(self) -> str:
        """Return the number under which the group's companies know the person."""
        return f"{self.marker}-cus-{self.number:02d}"

    @property
    def ga_client_id(self) -> str:
        """Return what analytics calls the person's browser."""
        return f"77{self.number:04d}2024.16{self.number:04d}9317"

    @property
    def hotjar_user_id(self) -> str:
        """Return what the recordings call the person."""
        return f"{self.marker}-rec-{self.number:02d}"

    @property
    def cookie_id(self) -> str:
        """Return the website's own cookie."""
        return f"{self.marker}-cookie-{self.number:02d}"

    @property
    def ip_address(self) -> str:
        """Return an address of the documentation range."""
        return f"203.0.113.{100 + self.number}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return every value that must not be readable anywhere but in the systems themselves."""
        values = (
            self.email, self.last_name, self.phone, self.street, self.account_id, self.customer_id, self.ga_client_id,
            self.hotjar_user_id, self.cookie_id, self.ip_address,
        )  # fmt: skip
        return tuple(value for value in values if value)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Return what some vendors know instead of the address: its MD5 and SHA-256, which are as personal as it is."""
        return in_form(self.email, IdentifierForm.MD5), in_form(self.email, IdentifierForm.SHA256)


def people(marker: str) -> dict[str, Person]:
    """Return everybody by alias, the stranger last. `marker` is a word in lower case that stands in their addresses and ids."""
    known = {alias: Person(alias, number, marker) for number, alias in enumerate(ALIASES, 1)}
    return {**known, STRANGER: Person(STRANGER, 0, marker)}

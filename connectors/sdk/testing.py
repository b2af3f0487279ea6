"""The conformance suite: what every connector must do, whatever its system. Public: use it for your own connector.

Inherit `ConnectorContract` (any system) or `testing_http.HttpConnectorContract` (a system behind HTTP with a stand-in), fill
in the mixin part, and pytest runs every test below against your connector:

    class TestAcme(HttpConnectorContract):
        def stand_in(self, clock): return AcmeStandIn(clock)
        def build(self, base_url, *, timeout_seconds): return AcmeConnector(AcmeSettings(base_url=base_url, ...))
        def plant(self, system, person, *, records=1): ...
        def holds(self, system, person): ...

Needs pytest and pytest-asyncio in its auto mode.

Room rules: the suite knows no system; people live on example.org and under reserved phone numbers.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import METHODS, Cancels, Connector, Ended, Job, Result
from schemas.ids import order_id
from schemas.requests import Verification
from schemas.subject import FieldChange
from schemas.vocabulary import AssuranceLevel, IdentifierKind, OutcomeCode, Right

__all__ = ["ADA", "BOB", "NOW", "ZOE", "ConnectorContract", "Person", "job_for", "needs_right", "traces_in"]

#: The instant at which the suite's clock starts.
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
_REQUEST = "0b9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a"
_SYSTEM = "under_test"


@dataclass(frozen=True, slots=True)
class Person:
    """A fictional data subject with every identifier a system may know."""

    email: str
    first_name: str
    last_name: str
    #: From the range reserved for fiction, +1 555 0100 to 0199.
    phone: str
    identifiers: Mapping[IdentifierKind, str] = field(default_factory=dict)

    def known_by(self, *kinds: IdentifierKind) -> dict[IdentifierKind, tuple[str, ...]]:
        """Return the person's identifiers of these kinds, as an order carries them."""
        every = {IdentifierKind.EMAIL: self.email, IdentifierKind.PHONE: self.phone, **self.identifiers}
        return {kind: (every[kind],) for kind in kinds if kind in every}

    @property
    def traces(self) -> tuple[str, ...]:
        """Return every text that must never show up in a log, an exception or a repr."""
        return (self.email, self.email.lower(), self.last_name, self.phone, *self.identifiers.values())


def _person(first: str, last: str, email: str, number: int) -> Person:
    return Person(
        email=email,
        first_name=first,
        last_name=last,
        phone=f"+155501{number:02d}",
        identifiers={
            IdentifierKind.ACCOUNT_ID: f"acct-{first.lower()}-{number}",
            IdentifierKind.CRM_CONTACT_ID: f"90000{number}",
            IdentifierKind.CUSTOMER_ID: f"cust-{first.lower()}-{number}",
            IdentifierKind.GA_CLIENT_ID: f"13579{number}.24680{number}",
            IdentifierKind.GA_USER_ID: f"gauser-{first.lower()}-{number}",
            IdentifierKind.HOTJAR_USER_ID: f"hj-{first.lower()}-{number}",
            IdentifierKind.COOKIE_ID: f"cookie-{first.lower()}-{number}",
        },
    )


ADA = _person("Ada", "Lovelace-Testcase", "ada.lovelace@example.org", 41)
BOB = _person("Bob", "Bystander-Testcase", "bob.bystander@example.org", 42)
#: A name and an address outside ASCII, and an address whose case differs from what was stored.
ZOE = _person("Zoë", "Čapková-Ødegård", "Zoë.Čapková@Example.org", 43)


def job_for(
    right: Right,
    identifiers: Mapping[IdentifierKind, tuple[str, ...]],
    *,
    changes: tuple[FieldChange, ...] = (),
    attempt: int = 1,
    now: datetime = NOW,
) -> Job:
    """Return a job as the runtime would hand it over."""
    return Job(
        order_id=order_id(_REQUEST, _SYSTEM),
        subject_request_id=_REQUEST,
        right=right,
        attempt=attempt,
        now=now,
        received_at=NOW,
        due_on=date(2026, 4, 7),
        identifiers=identifiers,
        changes=changes,
        verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=NOW),
    )


class ConnectorContract:
    """What holds for every connector. Override the mixin part, and the flags where the system differs."""

    #: False for systems that take an order without saying whether they held anything.
    reports_absence: ClassVar[bool] = True
    #: False where one person cannot have several records.
    keeps_several: ClassVar[bool] = True
    #: True if `erase` removes the person from what `holds` looks at by the time it returns.
    erases_at_once: ClassVar[bool] = True
    #: False for systems whose identifiers are opaque: no letters to differ in case.
    finds_by_email: ClassVar[bool] = True
    #: Fields to send with rectification.
    changes: ClassVar[tuple[FieldChange, ...]] = (FieldChange(field="last_name", new="Byron-Testcase"),)
    #: Fields to send with completion: ones that a planted person lacks.
    completions: ClassVar[tuple[FieldChange, ...]] = (FieldChange(field="city", new="Delft"),)

    # The mixin part.

    def open_system(self, clock: ManualClock) -> AbstractContextManager[Any]:
        """Start the system (a stand-in, a database) and give back what the other methods take as `system`."""
        raise NotImplementedError

    def connect(self, system: Any) -> Connector:
        """Build the connector against the running system, with valid credentials."""
        raise NotImplementedError

    def plant(self, system: Any, person: Person, *, records: int = 1) -> None:
        """Make the system hold the person, in so many records."""
        raise NotImplementedError

    def holds(self, system: Any, person: Person) -> bool:
        """Tell whether the system still holds any record of the person."""
        raise NotImplementedError

    def identifiers(self, connector: Connector, person: Person) -> dict[IdentifierKind, tuple[str, ...]]:
        """Return what an order to this system would carry: all kinds it can search by."""
        return person.known_by(*sorted(connector.needs))

    async def settle(self, connector: Connector, system: Any, clock: ManualClock, job: Job, result: Result) -> Result:
        """Poll until the vendor's job has ended; a stand-in's lag passes on the manual clock."""
        del system
        for _ in range(200):
            if result.outcome.code is not OutcomeCode.ACCEPTED:
                return result
            clock.advance(3600)
            assert result.handle is not None, "Accepted needs a handle to poll with"
            result = await connector.poll(replace(job, now=clock.now()), result.handle)
        raise AssertionError("the vendor's job never ended")

    def changes_for(self, right: Right) -> tuple[FieldChange, ...]:
        """Return what an order for this right carries beside identifiers."""
        return {Right.RECTIFICATION: self.changes, Right.COMPLETION: self.completions}.get(right, ())

    # Fixtures.

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Give a clock that stands until a test moves it."""
        return ManualClock(NOW)

    @pytest.fixture
    def system(self, clock: ManualClock) -> Iterator[Any]:
        """Give the running system."""
        with self.open_system(clock) as system:
            yield system

    @pytest.fixture
    async def connector(self, system: Any) -> AsyncIterator[Connector]:
        """Give the connector under test."""
        connector = self.connect(system)
        yield connector
        await connector.aclose()

    @pytest.fixture
    def run(self, connector: Connector, system: Any, clock: ManualClock) -> Callable[..., Any]:
        """Do one job for a person to its end, as the runtime would."""

        async def run(right: Right, person: Person = ADA, **overrides: Any) -> Result:
            identifiers = overrides.pop("identifiers", None) or self.identifiers(connector, person)
            job = job_for(right, identifiers, changes=self.changes_for(right), now=clock.now())
            return await self.settle(connector, system, clock, job, await perform(connector, job))

        return run

    # What is declared.

    async def test_every_declared_right_has_its_method(self, connector: Connector) -> None:
        """A right in `rights` has the method that METHODS names, and no method hides that is not declared."""
        for right, method in METHODS.items():
            assert (right in connector.rights) == hasattr(connector, method), method

    async def test_check_passes_without_touching_a_person(self, connector: Connector, system: Any) -> None:
        """`check` says one line about credentials and names nobody."""
        self.plant(system, ADA)
        line = await connector.check()
        assert line
        assert "\n" not in line
        assert not traces_in(line, ADA)

    async def test_a_right_not_offered_is_said_so(self, run: Callable[..., Any], connector: Connector) -> None:
        """A right without a method is not_applicable(right_not_offered)."""
        for right in set(Right) - connector.rights:
            result = await run(right)
            assert result.outcome.code is OutcomeCode.NOT_APPLICABLE
            assert result.outcome.reason == "right_not_offered"

    async def test_a_job_without_a_usable_identifier_is_said_so(self, connector: Connector) -> None:
        """No identifier the system can use: not_applicable(identifier_missing), for every right."""
        unusable = dict.fromkeys(set(IdentifierKind) - connector.needs, ("value-of-no-use",))
        for right in connector.rights:
            result = await perform(connector, job_for(right, unusable, changes=self.changes_for(right)))
            assert result.outcome.code is OutcomeCode.NOT_APPLICABLE
            assert result.outcome.reason == "identifier_missing"

    # What is done.

    async def test_every_right_is_fulfilled_for_a_person_it_holds(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """Each right ends in a final outcome that says that something was done or lawfully kept."""
        for right in sorted(connector.rights - {Right.ERASURE}) + sorted(connector.rights & {Right.ERASURE}):
            self.plant(system, ADA)
            result = await run(right)
            assert result.outcome.code in {OutcomeCode.FULFILLED, OutcomeCode.RETAINED, OutcomeCode.NOTIFIED}, right

    async def test_a_repeated_job_is_harmless(self, run: Callable[..., Any], connector: Connector, system: Any) -> None:
        """The same job twice succeeds twice: the second finds nothing or nothing to change."""
        self.plant(system, ADA)
        for right in sorted(connector.rights):
            first = await run(right)
            again = await run(right)
            assert first.outcome.code is not OutcomeCode.ACCEPTED
            assert again.outcome.code in {first.outcome.code, OutcomeCode.NOTHING_HELD, OutcomeCode.FULFILLED}, right

    async def test_nothing_held_is_a_success(self, run: Callable[..., Any], connector: Connector, system: Any) -> None:
        """For a person the system never knew each right ends well, and as nothing_held where the system can tell."""
        self.plant(system, BOB)
        for right in connector.rights:
            result = await run(right)
            if self.reports_absence:
                assert result.outcome.code is OutcomeCode.NOTHING_HELD, right
                assert result.exports == ()

    async def test_erasure_removes_the_person_and_nobody_else(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """After erasure the person is gone and the bystander is still there."""
        needs_right(connector, Right.ERASURE)
        self.plant(system, ADA)
        self.plant(system, BOB)
        await run(Right.ERASURE)
        assert not self.holds(system, ADA) or not self.erases_at_once
        assert self.holds(system, BOB) or not self.reports_absence

    async def test_erasure_takes_all_records_of_the_person(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """Several records of one person are all erased, and counted."""
        needs_right(connector, Right.ERASURE)
        if not self.keeps_several:
            pytest.skip("one person has one record here")
        self.plant(system, ADA, records=3)
        self.plant(system, BOB)
        result = await run(Right.ERASURE)
        assert not self.holds(system, ADA)
        assert self.holds(system, BOB)
        assert getattr(result.outcome, "count", 3) >= 3

    async def test_unicode_and_the_case_of_an_address_do_not_hide_a_person(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """A person with letters outside ASCII is found under another case of the address."""
        needs_right(connector, Right.ERASURE)
        if not self.finds_by_email:
            pytest.skip("not searched by address")
        self.plant(system, ZOE)
        swapped = replace(ZOE, email=ZOE.email.swapcase())
        await run(Right.ERASURE, person=swapped)
        assert not self.holds(system, ZOE)

    async def test_access_exports_the_person_and_nobody_else(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """The export holds the person's data and none of the bystander's."""
        needs_right(connector, Right.ACCESS)
        self.plant(system, ADA)
        self.plant(system, BOB)
        result = await run(Right.ACCESS)
        text = "".join(str(export.content) for export in result.exports)
        assert traces_in(text, ADA)
        assert not traces_in(text, BOB)

    # What is over.

    async def test_an_order_that_is_over_is_called_off(self, connector: Connector, system: Any, clock: ManualClock) -> None:
        """A connector that can call off does: what is not done yet stays undone, however often it is asked, and for nothing."""
        if not isinstance(connector, Cancels):
            pytest.skip(f"{connector.name} cannot call off: the runtime drops what has not begun")
        assert await self._called_off(connector, clock, has_begun=False) is None
        self.plant(system, ADA)
        result = await perform(connector, job_for(Right.ERASURE, self.identifiers(connector, ADA), now=clock.now()))
        assert result.outcome.code is OutcomeCode.ACCEPTED, "what is done at once cannot be called off"
        assert await self._called_off(connector, clock, has_begun=True) is None
        assert self.holds(system, ADA)
        clock.advance(30 * 86_400)
        assert await self._called_off(connector, clock, has_begun=True) is None
        assert self.holds(system, ADA)

    async def _called_off(self, connector: Cancels, clock: ManualClock, *, has_begun: bool) -> Result | None:
        job = job_for(Right.ERASURE, {})
        for _ in range(200):
            ended = Ended(
                order_id=job.order_id,
                subject_request_id=job.subject_request_id,
                right=job.right,
                attempt=job.attempt,
                now=clock.now(),
                cancelled_at=NOW,
                has_begun=has_begun,
            )
            result = await connector.cancel(ended)
            if result is None or result.outcome.code is not OutcomeCode.ACCEPTED:
                return result
            clock.advance(3600)
        raise AssertionError("the system never said what came of it")

    # What never shows.

    async def test_no_identity_in_reprs_and_logs(
        self, run: Callable[..., Any], connector: Connector, system: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Jobs, results, connectors and log lines at the finest level show nobody."""
        caplog.set_level(logging.DEBUG)
        self.plant(system, ADA)
        for right in sorted(connector.rights):
            job = job_for(right, self.identifiers(connector, ADA), changes=self.changes_for(right))
            result = await run(right)
            assert not traces_in(
                f"{job!r} {result!r} {connector!r} {vars(connector) if hasattr(connector, '__dict__') else ''}", ADA
            )
        assert not traces_in(caplog.text, ADA)


def needs_right(connector: Connector, right: Right) -> None:
    """Skip the test if the connector does not offer the right."""
    if right not in connector.rights:
        pytest.skip(f"{connector.name} has no method for {right.value}")


def traces_in(text: str, person: Person) -> list[str]:
    """Return which kinds of trace of the person stand in a text: positions, not the traces."""
    lowered = text.lower()
    return [f"trace {index}" for index, trace in enumerate(person.traces) if trace.lower() in lowered]

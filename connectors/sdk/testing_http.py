"""The conformance suite for systems behind HTTP: every fault of a network and of a server, on real sockets.

Room rules: as `connectors.sdk.testing`; faults come from the stand-in's control, never from a patched client.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from connectors.sdk.clock import Clock, ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector
from connectors.sdk.standin import Fault, StandIn, closed_port_url, serve
from connectors.sdk.testing import ADA, ConnectorContract, job_for, needs_right, traces_in
from schemas.errors import ConnectorError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.vocabulary import OutcomeCode, Right

__all__ = ["HttpConnectorContract"]


class HttpConnectorContract(ConnectorContract):
    """What holds for every connector that speaks HTTP: faults are mapped, told apart, and healed by a repetition."""

    #: Statuses that mean throttling here, beside 429.
    throttling_403: ClassVar[Fault | None] = None
    #: Rights tried under every fault: those whose first call is a read and those that write.
    faulted_rights: ClassVar[tuple[Right, ...]] = ()

    #: Paths of calls on one record, for which 404 and 410 mean that it is gone.
    vanishing_paths: ClassVar[tuple[str, ...]] = ()

    def stand_in(self, clock: Clock) -> StandIn:
        """Return the system's stand-in, not yet served."""
        raise NotImplementedError

    def build(self, base_url: str, *, timeout_seconds: float) -> Connector:
        """Build the connector against this address, with the credentials its stand-in takes."""
        raise NotImplementedError

    def open_system(self, clock: ManualClock) -> AbstractContextManager[Any]:
        """Serve the stand-in and remember its address."""

        @contextlib.contextmanager
        def opened() -> Iterator[StandIn]:
            standin = self.stand_in(clock)
            with serve(standin) as self._base_url:
                yield standin

        return opened()

    def connect(self, system: Any) -> Connector:
        """Build against the served stand-in; short timeouts, so that a hanging answer fails in a second."""
        del system
        return self.build(self._base_url, timeout_seconds=0.8)

    @pytest.fixture
    def fails(self, connector: Connector, system: Any, caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
        """Run every faulted right under a fault and return the errors, none of which may show the person."""

        async def fails(fault: Fault) -> list[ConnectorError]:
            caplog.set_level(logging.DEBUG)
            errors = []
            for right in self.faulted_rights or tuple(sorted(connector.rights)):
                system.heal()
                self.plant(system, ADA)
                system.fail(replace(fault, times=1000))
                job = job_for(right, self.identifiers(connector, ADA), changes=self.changes_for(right))
                with pytest.raises(ConnectorError) as caught:
                    await perform(connector, job)
                assert not traces_in("".join(traceback.format_exception(caught.value)), ADA)
                errors.append(caught.value)
            assert not traces_in(caplog.text, ADA)
            return errors

        return fails

    async def test_401_means_new_credentials(self, fails: Callable[..., Any]) -> None:
        """401 is CredentialsRefused."""
        assert {type(error) for error in await fails(Fault(status=401))} == {CredentialsRefused}

    async def test_403_means_new_credentials_or_throttling(self, fails: Callable[..., Any]) -> None:
        """403 is CredentialsRefused, except in the shape in which this system throttles."""
        plain = Fault(status=403, json={"message": "This account lacks the permission"})
        assert {type(error) for error in await fails(plain)} == {CredentialsRefused}
        if self.throttling_403 is not None:
            assert {type(error) for error in await fails(self.throttling_403)} == {Throttled}

    async def test_429_is_throttled_with_the_seconds_it_names(self, fails: Callable[..., Any]) -> None:
        """429 with Retry-After carries the seconds."""
        errors = await fails(Fault(status=429, headers={"retry-after": "7"}))
        assert {type(error) for error in errors} == {Throttled}
        assert {error.retry_after_seconds for error in errors} == {7.0}

    async def test_429_without_a_date_is_throttled_all_the_same(self, fails: Callable[..., Any]) -> None:
        """429 without any header or body is Throttled; the wait is the runtime's to choose."""
        assert {type(error) for error in await fails(Fault(status=429))} == {Throttled}

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    async def test_5xx_is_retried_later(self, fails: Callable[..., Any], status: int) -> None:
        """A 5xx promises nothing: SystemUnavailable."""
        assert {type(error) for error in await fails(Fault(status=status, body="<html>"))} == {SystemUnavailable}

    async def test_a_refused_connection_is_retried_later(self) -> None:
        """Nobody listens: SystemUnavailable."""
        with closed_port_url() as url:
            connector = self.build(url, timeout_seconds=0.8)
            right = (self.faulted_rights or tuple(sorted(connector.rights)))[0]
            with pytest.raises(SystemUnavailable) as caught:
                await perform(connector, job_for(right, self.identifiers(connector, ADA), changes=self.changes_for(right)))
            await connector.aclose()
        assert not traces_in("".join(traceback.format_exception(caught.value)), ADA)

    async def test_silence_is_retried_later(self, fails: Callable[..., Any]) -> None:
        """A read timeout is SystemUnavailable."""
        assert {type(error) for error in await fails(Fault("hang", seconds=3))} == {SystemUnavailable}

    async def test_an_answer_cut_short_is_retried_later(self, fails: Callable[..., Any]) -> None:
        """A connection closed in mid-body is SystemUnavailable."""
        assert {type(error) for error in await fails(Fault("cut"))} == {SystemUnavailable}

    async def test_an_unreadable_answer_is_rejected(self, connector: Connector, system: Any) -> None:
        """Half a JSON document where the connector reads one is SystemRejected, or does not matter where it reads none."""
        await self._never_a_defect(connector, system, Fault("malformed"))

    async def test_an_endless_answer_is_rejected(self, connector: Connector, system: Any) -> None:
        """A body over the bound is SystemRejected and is not kept."""
        await self._never_a_defect(connector, system, Fault("huge"))

    async def test_an_answer_of_another_shape_is_rejected(self, connector: Connector, system: Any) -> None:
        """Valid JSON of a shape nobody promised is SystemRejected, never a KeyError or a silent success."""
        values: tuple[Any, ...] = ([], {}, {"results": "none"}, {"results": [17]}, "text", None)
        for value in values:
            await self._never_a_defect(
                connector, system, Fault(status=200, json=value, headers={"content-type": "application/json"})
            )

    async def test_a_refusal_is_not_retried(self, connector: Connector, system: Any) -> None:
        """400, 409 and 422 are never SystemUnavailable or Throttled."""
        for status in (400, 409, 422):
            await self._never_a_defect(connector, system, Fault(status=status, json={"message": "no"}))

    async def _never_a_defect(self, connector: Connector, system: Any, fault: Fault) -> None:
        """Run under the fault: a typed rejection or a result, never another exception and never an empty success."""
        for right in self.faulted_rights or tuple(sorted(connector.rights)):
            system.heal()
            self.plant(system, ADA)
            system.fail(replace(fault, times=1000))
            job = job_for(right, self.identifiers(connector, ADA), changes=self.changes_for(right))
            rejection: SystemRejected | None = None
            try:
                result = await perform(connector, job)
            except SystemRejected as error:
                rejection = error
            if rejection is not None:
                assert not traces_in("".join(traceback.format_exception(rejection)), ADA)
            else:
                assert result.outcome.code is not OutcomeCode.NOTHING_HELD, f"{right}: a broken answer was taken for absence"

    async def test_a_vanished_record_is_already_gone(self, run: Callable[..., Any], connector: Connector, system: Any) -> None:
        """A record deleted by somebody else between two calls (404, 410) is a success for erasure."""
        needs_right(connector, Right.ERASURE)
        for path in self.vanishing_paths:
            for status in (404, 410):
                self.plant(system, ADA)
                system.fail(Fault("lost", status=status, path=path))
                result = await run(Right.ERASURE)
                assert result.outcome.code in {OutcomeCode.FULFILLED, OutcomeCode.NOTHING_HELD, OutcomeCode.RETAINED}

    async def test_a_lost_answer_is_healed_by_repetition(
        self, run: Callable[..., Any], connector: Connector, system: Any
    ) -> None:
        """The system acted and its answer was lost: the repeated job ends well and the person is gone."""
        needs_right(connector, Right.ERASURE)
        for nth in range(1, 8):
            system.heal()
            self.plant(system, ADA)
            if not await self._lose_the_answer_to_call(nth, connector, system):
                break
            system.heal()
            result = await run(Right.ERASURE)
            assert result.outcome.code not in {OutcomeCode.ACCEPTED, OutcomeCode.NOT_APPLICABLE}
            assert not self.holds(system, ADA) or not self.erases_at_once

    async def _lose_the_answer_to_call(self, nth: int, connector: Connector, system: Any) -> bool:
        """Run an erasure whose nth call is answered by nobody; tell whether there was such a call."""
        system.fail_nth(nth, Fault("lost"))
        try:
            await perform(connector, job_for(Right.ERASURE, self.identifiers(connector, ADA)))
        except SystemUnavailable:
            return True
        return False

"""The intake keys of this worker's memory: learnt from the store, made and destroyed by the schedule.

Any number of workers may do this at once: a key is made by name, the store keeps the first, and everybody reads it again.
A destroyed key leaves the other workers' memory with their next turn.

Room rules: when is for `core.intake_keys` to say; a private key is unwrapped here and goes nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from orchestrator.core.intake_keys import (
    IntakeLife,
    IntakePolicy,
    current_key,
    keys_to_destroy,
    name_of_next,
    overdue,
    published_keys,
)
from orchestrator.ports import Backlog, Clock, KeyEncryption, ServiceKey, Store
from orchestrator.shell.service_keys import context_of
from schemas.errors import OrchestratorError
from schemas.intake import IntakeKey, IntakeKeySet
from schemas.metrics import INTAKE_KEY_AGE, INTAKE_KEYS_OVERDUE, Metrics

__all__ = ["INTAKE", "IntakeKeys", "keep_intake_key"]

log = structlog.get_logger(__name__)

#: Purpose of the keys in the store.
INTAKE = "intake"
#: So often a name that nobody knows makes a worker look into the store. A new key is published after `lead`, which is longer.
_LOOK_AGAIN = timedelta(seconds=5)
#: So often the broker is asked whether everything was read that a key could be needed for.
_ASK_AGAIN = timedelta(seconds=30)


class IntakeKeys:
    """The keys that open what portals sealed, and the set that portals are told."""

    def __init__(
        self,
        store: Store,
        encryption: KeyEncryption,
        *,
        clock: Clock,
        backlog: Backlog,
        metrics: Metrics,
        policy: IntakePolicy,
    ) -> None:
        self._store = store
        self._encryption = encryption
        self._clock = clock
        self._backlog = backlog
        self._metrics = metrics
        self._policy = policy
        self._private: dict[str, IntakeKey] = {}
        self._known: tuple[ServiceKey, ...] = ()
        self._learnt_at: datetime | None = None
        #: By key whose time is over: where the topics ended when that was seen first.
        self._ends: dict[str, Mapping[tuple[str, int], int]] = {}
        self._ask_at: datetime | None = None

    @property
    def private(self) -> Mapping[str, IntakeKey]:
        """Return the keys by name: the very mapping that later turns change."""
        return self._private

    def published(self) -> IntakeKeySet:
        """Return the set that portals are told, the current key first."""
        named = published_keys(self._lives(), self._clock.now(), self._policy)
        return IntakeKeySet(keys=tuple(self._private[life.kid].public for life in named))

    async def turn(self) -> None:
        """Learn what other workers did, make the key of this period, destroy what is over. May be repeated at any time.

        Raises `StoreUnavailable`, and `ConfigurationError` if the key-encryption key is not the one that wrapped them.
        """
        await self._learn()
        now = self._clock.now()
        name = name_of_next(self._lives(), now, self._policy)
        if name is not None:
            await keep_intake_key(self._store, self._encryption, IntakeKey.new(name), now)
            await self._learn()
            log.info("intake_key_made", key_id=name)
        await self._destroy(now)
        self._measure(now)

    async def learn(self) -> bool:
        """Look for keys that another worker made; return whether there are new ones. Looks every few seconds at most."""
        now = self._clock.now()
        if self._learnt_at is not None and now < self._learnt_at + _LOOK_AGAIN:
            return False
        known = set(self._private)
        await self._learn()
        return not self._private.keys() <= known

    async def _learn(self) -> None:
        self._learnt_at = self._clock.now()
        self._known = tuple(key for key in await self._store.service_keys() if key.purpose == INTAKE)
        alive = {key.kid: key.wrapped for key in self._known if key.wrapped is not None}
        for kid in self._private.keys() - alive.keys():
            del self._private[kid]
        for kid, wrapped in alive.items():
            if kid not in self._private:
                self._private[kid] = IntakeKey(kid, self._encryption.unwrap(wrapped, context_of(INTAKE, kid)))

    def _lives(self) -> list[IntakeLife]:
        return [IntakeLife(key.kid, key.created_at, key.kid in self._private) for key in self._known]

    async def _destroy(self, now: datetime) -> None:
        over = keys_to_destroy(self._lives(), now, self._policy)
        if not over or (self._ask_at is not None and now < self._ask_at):
            return
        self._ask_at = now + _ASK_AGAIN
        try:
            ends, read = await self._backlog.positions()
        except OrchestratorError:
            # Nothing is lost by waiting; a broker that never answers is told by the number of keys that are overdue.
            log.warning("intake_keys_wait", action="retry", count=len(over), wait_seconds=_ASK_AGAIN.total_seconds())
            return
        for kid in over:
            # What could need the key was in the topics when it was seen to be over: all of that must have been read since.
            wanted = self._ends.setdefault(kid, ends)
            if all(read.get(partition, 0) >= end for partition, end in wanted.items()):
                await self._store.destroy_service_key(kid, now)
                del self._ends[kid]
                log.info("intake_key_destroyed", key_id=kid)
        await self._learn()

    def _measure(self, now: datetime) -> None:
        lives = self._lives()
        current = current_key(lives, now, self._policy)
        if current is not None:  # unless somebody has destroyed it this moment: the next turn makes another
            self._metrics.set(INTAKE_KEY_AGE, (now - current.created_at).total_seconds())
        self._metrics.set(INTAKE_KEYS_OVERDUE, overdue(lives, now, self._policy))


async def keep_intake_key(store: Store, encryption: KeyEncryption, key: IntakeKey, now: datetime) -> None:
    """Give the store a private key, wrapped; one that has the name already stays. Raises `StoreUnavailable`."""
    wrapped = encryption.wrap(key.unsafe_bytes(), context_of(INTAKE, key.kid))
    await store.add_service_key(ServiceKey(key.kid, INTAKE, now, key.public.model_dump_json().encode(), wrapped))

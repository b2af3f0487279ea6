"""Where an order's keys come from: workers that give them ahead, the key desk, asked over HTTP, and this process's memory.

Nothing here is written to a disk. A key that has left memory is asked for again, and is not given out once the order is closed.
So what the journal still has of a closed order can be opened by nobody.

Room rules: no key is logged or shown.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol

import httpx
import structlog
from pydantic import ValidationError

from connectors.sdk.clock import Clock
from connectors.sdk.keys_ahead import EarlyKeys
from schemas.errors import ConfigurationError, OrchestratorError, ProtocolViolation
from schemas.keys_ahead import AheadMark
from schemas.order_keys import (
    MOST_ORDERS,
    PATH,
    KeyAnswer,
    KeyAnswers,
    KeyStatus,
    OrderKeysError,
    Purpose,
    WantedKey,
    WantedKeys,
    assertion,
    audience_of,
    root_from_text,
)
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.sealed import SealingKey
from schemas.trust import SigningKey
from schemas.vocabulary import QuarantineReason

__all__ = ["CLOSED", "UNREADABLE", "HttpOrderKeys", "KeysUnavailable", "OrderKeys", "Purpose", "order_keys_client"]

_log = structlog.get_logger("dsr.connector")

#: The order is over: it is dropped, and nobody waits for a report on it.
CLOSED: KeyStatus = 410
#: Its key cannot be had now, whoever is asked: the order waits, alone.
UNREADABLE: KeyStatus = 503
#: Roots in memory beside those of the orders under way: the most recently used, of orders that wait for their turn.
_REMEMBERED = 2_000
#: Workers read their trust file every 10 s: a key that was put there just now is known after twice that.
_NOT_YET_KNOWN_SECONDS = 20.0
_KNOWN_BY_NOW_SECONDS = 2.0
_TIMEOUT = httpx.Timeout(15.0, connect=5.0)
_NONE: Mapping[str, AheadMark] = MappingProxyType({})
_LETS_IN = frozenset({200, 207, 403, 404, 410})
#: Another worker may answer: this one does not know our key (any more, or yet), has had enough of us for now, or cannot.
_ELSEWHERE = frozenset({401, 429, *range(500, 600)})


class KeysUnavailable(OrchestratorError):
    """The key desk did not answer, or did not let us in: wait, and ask again. No order is to blame."""

    reason = "keys_unavailable"


class OrderKeys(Protocol):
    """Keys of orders, by purpose."""

    async def fetch(self, orders: Sequence[FulfilmentOrder], ahead: Mapping[str, AheadMark] = _NONE) -> Mapping[str, KeyStatus]:
        """Have the keys of these orders at hand; return, by order id, why there is none.

        `ahead` are the marks, by order id, of those whose keys a worker gives unasked.
        Raises `KeysUnavailable`; then it is not known of any.
        """
        ...

    async def standing(self, orders: Sequence[OrderCancelled]) -> Mapping[str, KeyStatus]:
        """Return, by order id, what the orchestrator says of these now, whatever is at hand. Raises `KeysUnavailable`."""
        ...

    def at_hand(self) -> Collection[str]:
        """Return the ids of the orders that `fetch` needs no call for."""
        ...

    def key_for(self, order: FulfilmentOrder, purpose: Purpose = Purpose.ORDER) -> SealingKey:
        """Return the key of one purpose of an order that was fetched. Raises `ProtocolViolation(identity_unreadable)`."""
        ...

    def holding(self, order_id: str) -> AbstractContextManager[None]:
        """Keep an order's keys at hand while the block runs, whatever else is fetched: its report must be sealed at the end."""
        ...

    def forget(self, order_id: str) -> None:
        """Let go of an order's keys."""
        ...


class HttpOrderKeys:
    """The keys of one system's orders, from any worker of the orchestrator that answers."""

    def __init__(
        self,
        system: str,
        urls: Sequence[str],
        client: httpx.AsyncClient,
        clock: Clock,
        *,
        prefix: str,
        signer: SigningKey | None,
    ) -> None:
        """`urls` are base addresses of workers, asked in turn until one answers; without `signer` nobody is named."""
        self._system = system
        self._urls = list(urls)
        self._client = client
        self._clock = clock
        self._audience = audience_of(prefix)
        self._signer = signer
        self._token: tuple[str, datetime] | None = None
        self._early = EarlyKeys(system, urls, client, clock, self._headers)
        self._roots: OrderedDict[str, SealingKey] = OrderedDict()
        #: Of the orders under way.
        self._held: dict[str, SealingKey] = {}

    async def check(self) -> None:
        """Ask for nothing, to see whether we are let in; for 20 s again, if our key is not known.

        Raises `KeysUnavailable` if nobody answers, and `ConfigurationError` if somebody does and will not have us.
        """
        answer = await self._ask([])
        if self._signer is not None:
            until = self._clock.now() + timedelta(seconds=_NOT_YET_KNOWN_SECONDS)
            while answer.status_code == httpx.codes.UNAUTHORIZED and (left := until - self._clock.now()) > timedelta():
                seconds = round(left.total_seconds())
                _log.info("key_not_known_yet", system=self._system, reason=_why(answer), seconds=seconds)
                await self._clock.sleep(_KNOWN_BY_NOW_SECONDS)
                answer = await self._ask([])
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ConfigurationError(
                f"the orchestrator does not know {self._system}: {_why(answer)}; {self._how_to_be_known()}"
            )
        if answer.status_code not in _LETS_IN - {403}:
            raise ConfigurationError(f"DSR_KEYS_URL: the orchestrator does not let {self._system} in: {_why(answer)}")

    async def listen(self) -> None:
        """Hear of keys as workers give them unasked, until cancelled. Without it every key is asked for."""
        await self._early.listen()

    async def fetch(
        self, orders: Sequence[FulfilmentOrder | WantedKey], ahead: Mapping[str, AheadMark] = _NONE
    ) -> Mapping[str, KeyStatus]:
        """Ask for those that are not in memory, and were not given unasked."""
        refused: dict[str, KeyStatus] = {}
        lacking = [order.order_id for order in orders if order.order_id not in self._roots]
        await self._early.until_given(ahead[order_id] for order_id in lacking if order_id in ahead)
        early = {order.order_id: root for order in orders if (root := self._early.take(order.order_id)) is not None}
        for order in orders:  # before anything else comes in, which would push them out
            if order.order_id in self._roots:
                self._roots.move_to_end(order.order_id)
        for order_id, root in early.items():
            self._remember(order_id, root)
        wanted = {order.order_id: order for order in orders}
        await self._have([one for one in wanted.values() if one.order_id not in self._roots], refused)
        # An order that comes again may end while we ask: whoever worked on it has let go of what was at hand. It ends once.
        await self._have([one for name, one in wanted.items() if name not in self._roots and name not in refused], refused)
        return refused

    async def _have(self, missing: Sequence[FulfilmentOrder | WantedKey], refused: dict[str, KeyStatus]) -> None:
        for start in range(0, len(missing), MOST_ORDERS):
            some = missing[start : start + MOST_ORDERS]
            for answer in await self._answers(some):
                if answer.status == 200:
                    self._remember(answer.order_id, _root_in(answer))
                else:
                    refused[answer.order_id] = answer.status

    async def standing(self, orders: Sequence[OrderCancelled | WantedKey]) -> Mapping[str, KeyStatus]:
        """Ask, and keep nothing of the answer but the status."""
        some = [orders[start : start + MOST_ORDERS] for start in range(0, len(orders), MOST_ORDERS)]
        return {answer.order_id: answer.status for part in some for answer in await self._answers(part)}

    def at_hand(self) -> Collection[str]:
        """Return whose roots are in memory."""
        return self._roots.keys()

    def key_for(self, order: FulfilmentOrder, purpose: Purpose = Purpose.ORDER) -> SealingKey:
        """Derive from the order's root."""
        root = self._held.get(order.order_id) or self._roots.get(order.order_id)
        if root is None:
            raise ProtocolViolation(
                QuarantineReason.IDENTITY_UNREADABLE, field="sealed", remedy="the orchestrator gives no key for this order"
            )
        return root.derive(purpose)

    @contextmanager
    def holding(self, order_id: str) -> Iterator[None]:
        """Hold the root, if there is one."""
        root = self._roots.get(order_id)
        if root is not None:
            self._held[order_id] = root
        try:
            yield
        finally:
            self._held.pop(order_id, None)

    def forget(self, order_id: str) -> None:
        """Drop the root."""
        self._roots.pop(order_id, None)

    def _remember(self, order_id: str, root: SealingKey) -> None:
        self._roots[order_id] = root
        while len(self._roots) > _REMEMBERED:
            self._roots.popitem(last=False)

    async def _answers(self, orders: Sequence[FulfilmentOrder | OrderCancelled | WantedKey]) -> Sequence[KeyAnswer]:
        wanted = [WantedKey(subject_request_id=one.subject_request_id, order_id=one.order_id) for one in orders]
        answer = await self._ask(wanted)
        try:
            if answer.status_code not in _LETS_IN and not _is_answers(answer):
                raise KeysUnavailable(f"the orchestrator gives no keys: {_why(answer)}")
            keys = KeyAnswers.model_validate_json(answer.content).keys
        except (ValidationError, ValueError):
            raise KeysUnavailable(f"the orchestrator gives no keys: {_why(answer)}") from None
        if [key.order_id for key in keys] != [one.order_id for one in wanted]:
            raise KeysUnavailable("the orchestrator answers about other orders than were asked for")
        return keys

    async def _ask(self, wanted: Sequence[WantedKey]) -> httpx.Response:
        """Return the first answer of a worker that does not say 401, 429 or 5xx; a 401 if nobody says anything else.

        Each worker has a trust file of its own: what one does not know of us yet, another may.
        """
        body = WantedKeys(system=self._system, orders=tuple(wanted)).model_dump_json()
        said, refused = "no address is set", None
        for url in tuple(self._urls):  # a list of its own: calls run at the same time, and each asks everybody
            try:
                answer = await self._client.post(url + PATH, content=body, headers=self._headers())
            except httpx.HTTPError as error:
                said = type(error).__name__
            else:
                if answer.status_code not in _ELSEWHERE or _is_answers(answer):
                    return answer
                said = _why(answer)
                refused = answer if answer.status_code == httpx.codes.UNAUTHORIZED else refused
            if self._urls[0] == url:
                self._urls.append(self._urls.pop(0))  # the next one first, also next time
        if refused is not None:
            return refused
        raise KeysUnavailable(f"no worker of the orchestrator gives keys: {said}")

    def _how_to_be_known(self) -> str:
        if self._signer is None:
            return "its workers want signatures: set DSR_SIGNING_KEY_FILE, and leave DSR_SIGNATURES as it is"
        return f"put the public half of the key {self._signer.kid} into the trust file of its workers (their DSR_TRUST_FILE)"

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._signer is not None:
            now = self._clock.now()
            if self._token is None or now >= self._token[1]:
                self._token = assertion(self._signer, self._audience, now)
            headers["authorization"] = f"Bearer {self._token[0]}"
        return headers


def order_keys_client(ca_file: str | None) -> httpx.AsyncClient:
    """Return the HTTP client that asks for keys. Raises `ConfigurationError` for a certificate that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigurationError(f"DSR_KEYS_CA_FILE cannot be read ({type(error).__name__}): name a PEM file") from None
    return httpx.AsyncClient(timeout=_TIMEOUT, verify=context, follow_redirects=False)


def _root_in(answer: KeyAnswer) -> SealingKey:
    try:
        return root_from_text(answer.key or "")
    except ValueError:
        raise KeysUnavailable("the orchestrator answers with what is no key") from None


def _is_answers(answer: httpx.Response) -> bool:
    """Tell a refusal of every order from one of the question: both may be 503."""
    return answer.status_code == UNREADABLE and answer.content.startswith(b'{"keys":')


def _why(answer: httpx.Response) -> str:
    """Return what an error says: its status and our own words, never a body that somebody else wrote."""
    try:
        error = OrderKeysError.model_validate_json(answer.content)
    except (ValidationError, ValueError):
        return f"HTTP {answer.status_code}"
    return f"HTTP {answer.status_code} {error.error[:40]}: {error.remedy[:200]}"

"""Wraps every stored key anew under the current key-encryption key, while workers go on.

A key is put back only where the very bytes stand that were read: what a worker saves, forgets or destroys meanwhile wins, and
is looked at again in the next pass. Ended in the middle, it has done what it has done; run again, it does the rest.

Room rules: asks the store and the key-encryption port; nothing of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.ports import KeyEncryption, Store
from orchestrator.shell.service_keys import context_of
from schemas.errors import RowDamaged

__all__ = ["BATCH", "Rewrapped", "rewrap"]

#: Identities in one transaction.
BATCH = 500
#: The first does the work, the next ones what was saved meanwhile. Somebody who wraps under an older key is never done with.
_PASSES = 4


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What was done. `left`: keys that the last pass still found under an older key; with none, no stored key needs one.

    `damaged` are requests whose row does not open: they stay as they are, and no key that is known helps them.
    """

    done: int
    left: int
    damaged: tuple[str, ...] = ()


async def rewrap(
    store: Store,
    encryption: KeyEncryption,
    rewrapped: Callable[[str, bytes], bytes | None],
    *,
    tell: Callable[[int], None] = lambda _count: None,
) -> Rewrapped:
    """Wrap what is not under the current key, pass by pass until one finds nothing, and clean the database's files after it.

    `rewrapped` returns a request's sealed identity under the current key, None if it is so; `tell` is told the number of keys
    looked at. Raises `ConfigurationError` if a key is wrapped by none that is known, or one of the installation's own keys is
    damaged, and `StoreUnavailable`.
    """
    done = found = seen = 0
    damaged: set[str] = set()

    def again(request: str, stored: bytes) -> bytes | None:
        try:
            return rewrapped(request, stored)
        except RowDamaged:
            damaged.add(request)
            return None

    for _ in range(_PASSES):
        found = 0
        keys = {key.kid: (key.purpose, key.wrapped) for key in await store.service_keys() if key.wrapped is not None}
        old = {kid: (p, w) for kid, (p, w) in keys.items() if not encryption.is_current(w)}
        found += len(old)
        done += await store.exchange({}, {kid: (w, _anew(encryption, p, kid, w)) for kid, (p, w) in old.items()})
        request = ""
        while page := await store.identities_after(request, BATCH):
            request, seen = max(page), seen + len(page)
            anew = {name: (stored, new) for name, stored in page.items() if (new := again(name, stored)) is not None}
            found += len(anew)
            done += await store.exchange(anew, {}) if anew else 0
            tell(seen)
        if not found:
            break
    await store.scrub()
    return Rewrapped(done, found, tuple(sorted(damaged)))


def _anew(encryption: KeyEncryption, purpose: str, kid: str, wrapped: bytes) -> bytes:
    context = context_of(purpose, kid)
    return encryption.wrap(encryption.unwrap(wrapped, context), context)

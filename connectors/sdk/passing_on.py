"""Connectors that do not work on data themselves, but pass every right on in one way: to another controller, or to people.

Room rules: no system by name; what passing on means is the subclass's to say.
"""

from __future__ import annotations

from typing import ClassVar

from connectors.sdk.protocol import Job, Result
from schemas.vocabulary import Right

__all__ = ["PassesOn"]


class PassesOn:
    """Base of a connector to which the right is only a word in what it passes on: implement `pass_on`."""

    rights: ClassVar[frozenset[Right]] = frozenset(Right)

    async def pass_on(self, job: Job) -> Result:
        """Pass the order on, with its right; as every method of a connector, it may be repeated at any point."""
        raise NotImplementedError

    async def access(self, job: Job) -> Result:
        """Ask for a copy of the data (GDPR Art. 15)."""
        return await self.pass_on(job)

    async def rectify(self, job: Job) -> Result:
        """Ask for rectification (GDPR Art. 16)."""
        return await self.pass_on(job)

    async def complete(self, job: Job) -> Result:
        """Ask for completion (GDPR Art. 16)."""
        return await self.pass_on(job)

    async def erase(self, job: Job) -> Result:
        """Ask for erasure (GDPR Art. 17)."""
        return await self.pass_on(job)

    async def restrict(self, job: Job) -> Result:
        """Ask for restriction (GDPR Art. 18)."""
        return await self.pass_on(job)

    async def export(self, job: Job) -> Result:
        """Ask for the data in a machine-readable form (GDPR Art. 20)."""
        return await self.pass_on(job)

    async def object(self, job: Job) -> Result:
        """Pass on the objection to marketing (GDPR Art. 21(3))."""
        return await self.pass_on(job)

    async def unsubscribe(self, job: Job) -> Result:
        """Pass on the end of a newsletter (ePrivacy Directive Art. 13)."""
        return await self.pass_on(job)

"""What Skeleton can do for a data subject: access, erasure, unsubscribe.

Room rules: decisions only, HTTP lives in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.skeleton.client import Person, SkeletonClient
from schemas.errors import SystemRejected
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["SkeletonConnector", "SkeletonSettings", "build"]


class SkeletonSettings(ConnectorSettings):
    """How to reach the account; what no public page promises is a setting too."""

    model_config = SettingsConfigDict(env_prefix="DSR_SKELETON_")

    base_url: str
    token: Annotated[SecretStr, Field(description="What the token must be allowed to do")]
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    calls_per_second: Annotated[float, Field(gt=0, description="What the vendor allows, and where it says so")] = 5.0


class SkeletonConnector:
    """One account."""

    name: ClassVar[str] = "skeleton"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE, Right.UNSUBSCRIBE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: SkeletonSettings) -> None:
        self.throttle = Throttle(concurrent=2, per_second=settings.calls_per_second)
        self._client = SkeletonClient(
            settings.base_url, settings.token.get_secret_value(), timeout_seconds=settings.timeout_seconds
        )

    async def check(self) -> str:
        """Prove the credentials, without touching a person."""
        await self._client.prove_credentials()
        return "credentials accepted"

    async def access(self, job: Job) -> Result:
        """Export every record (GDPR Art. 15)."""
        found = await self._find(job)
        if not found:
            return Result(NothingHeld())
        exports = tuple(Exported(f"person-{number}", person.body) for number, person in enumerate(found, 1))
        return Result(Fulfilled(count=len(found)), exports=exports)

    async def erase(self, job: Job) -> Result:
        """Delete every record (GDPR Art. 17)."""
        deleted = [person for person in await self._find(job) if await self._client.delete(person.id)]
        return Result(Fulfilled(count=len(deleted)) if deleted else NothingHeld())

    async def unsubscribe(self, job: Job) -> Result:
        """End the newsletter (ePrivacy Directive Art. 13)."""
        silenced = [person for person in await self._find(job) if await self._client.silence(person.id)]
        return Result(Fulfilled(count=len(silenced)) if silenced else NothingHeld())

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: no call here starts a job."""
        del job, handle
        raise SystemRejected("skeleton starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _find(self, job: Job) -> list[Person]:
        found: dict[str, Person] = {}
        for email in dict.fromkeys(value.strip().lower() for value in job.every(IdentifierKind.EMAIL)):
            for person in await self._client.people(email):
                # A search may be looser than it looks: only the whole address counts.
                if person.body["email"].strip().lower() == email:
                    found[person.id] = person
        return list(found.values())


def build(settings: SkeletonSettings | None = None) -> SkeletonConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return SkeletonConnector(settings or read(SkeletonSettings))

"""What the website can do about its visitors' cookies: show the map, forget it, and have browsers told at their next visit.

Room rules: decisions only, the map lives in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.work import remember
from connectors.systems.cookies.browser import MAX_COOKIE_DAYS, CookieNames
from connectors.systems.cookies.client import ANALYTICS, Browser, CookieMap
from schemas.errors import SystemRejected
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.sealed import SealingKey
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["CookiesConnector", "CookiesSettings", "build"]

_NEXT_VISIT = "browser_copy_expires_on_next_visit"
_SHARED = "shared_browser"


class CookiesSettings(ConnectorSettings):
    """Where the map lies, and what the site's cookies are called: `DSR_COOKIES_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_COOKIES_")

    url: Annotated[SecretStr, Field(description="SQLAlchemy URL of the database that the website uses too")] = SecretStr(
        "sqlite:///.dsr/cookies.sqlite"
    )
    key: Annotated[SecretStr, Field(description="Base64 of 32 bytes; the website needs it too")]
    ended_cookies: Annotated[tuple[str, ...], Field(description="Names of cookies to end, as shell patterns")] = tuple(
        CookieNames().ended
    )
    cookie_domain: Annotated[str | None, Field(description="The domain that the site sets its cookies on, if any")] = None
    opt_out_cookie: Annotated[str, Field(description="Name of the cookie that says: do not track")] = CookieNames().opt_out
    marks_kept_days: Annotated[
        int, Field(ge=1, description="For so long a browser that never came back is still told; no cookie lives longer")
    ] = MAX_COOKIE_DAYS

    @property
    def sealing_key(self) -> SealingKey:
        """Return the key, named `cookies`. Raises `ConfigurationError`."""
        return SealingKey.from_base64("cookies", self.key.get_secret_value())

    @property
    def names(self) -> CookieNames:
        """Return what the website's next answer ends."""
        return CookieNames(self.ended_cookies, self.cookie_domain, self.opt_out_cookie)

    def open_map(self) -> CookieMap:
        """Return the map, as connector and website both use it."""
        return CookieMap(self.url.get_secret_value(), self.sealing_key)


class CookiesConnector:
    """One website's map."""

    name: ClassVar[str] = "cookies"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE, Right.OBJECTION})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(
        {IdentifierKind.COOKIE_ID, IdentifierKind.ACCOUNT_ID, IdentifierKind.EMAIL}
    )
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.COOKIE_ID, *ANALYTICS})

    def __init__(self, settings: CookiesSettings) -> None:
        self._map = settings.open_map()
        self._marks_kept_days = settings.marks_kept_days
        self.throttle = Throttle(concurrent=2)

    async def check(self) -> str:
        """Return one line on the map. Marks that only grow mean that the website does not ask for them."""
        mapped, waiting = await asyncio.to_thread(self._map.counts)
        return f"{mapped} browsers mapped; {waiting} marked and not seen since"

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: whether a browser comes back is nothing to wait for."""
        del job, handle
        raise SystemRejected("cookies starts no jobs that could be asked after")

    async def access(self, job: Job) -> Result:
        """List the person's browsers: cookie, analytics ids, what each was found by, and since when it is to forget."""
        browsers = await asyncio.to_thread(self._map.find, job.identifiers)
        if not browsers:
            return Result(NothingHeld())
        rows = [_row(browser) for browser in browsers]
        # A shared browser's analytics data is another person's too: nobody is sent there to read it.
        own = [browser for browser in browsers if not browser.is_shared]
        notes = (_SHARED,) if len(own) < len(browsers) else ()
        return Result(Fulfilled(count=len(rows)), yielded=_ids(own), exports=(Exported("browsers", rows),), notes=notes)

    async def erase(self, job: Job) -> Result:
        """Forget the person's browsers, and mark their cookies: the website's next answer ends them there."""
        return await self._end(job, forget=True)

    async def object(self, job: Job) -> Result:
        """Mark the person's cookies: they end at the next visit, and none is filed again. The map stays for later requests."""
        return await self._end(job, forget=False)

    async def _end(self, job: Job, *, forget: bool) -> Result:
        today = job.now.date()
        await asyncio.to_thread(self._map.drop_marks, today, self._marks_kept_days)
        browsers = await asyncio.to_thread(self._map.find, job.identifiers)
        found = _ids(browsers)
        await remember(found)
        # A cookie that the person named is ended also where nothing was filed under it.
        keys = {self._map.key_of(value) for value in job.every(IdentifierKind.COOKIE_ID)} | {
            browser.key for browser in browsers
        }
        gone = browsers if forget else []
        new = await asyncio.to_thread(self._map.settle, job.identifiers, forget=gone, mark=keys, today=today)
        notes = ((_NEXT_VISIT,) if keys else ()) + ((_SHARED,) if any(browser.is_shared for browser in browsers) else ())
        if keys and not new:
            notes += ("already_marked",)
        outcome = Fulfilled(count=len(browsers)) if browsers else NothingHeld()
        return Result(outcome, yielded=found, notes=notes)


def _row(browser: Browser) -> dict[str, object]:
    ids = {kind.value: list(values) for kind, values in browser.ids.items()}
    found_by = sorted(kind.value for kind in browser.found_by)
    marked = None if browser.marked_on is None else browser.marked_on.isoformat()
    return {**ids, "found_by": found_by, "used_by_others_too": browser.is_shared, "to_forget_since": marked}


def _ids(browsers: list[Browser]) -> dict[IdentifierKind, tuple[str, ...]]:
    found: dict[IdentifierKind, dict[str, None]] = {}
    for browser in browsers:
        for kind, values in browser.ids.items():
            found.setdefault(kind, {}).update(dict.fromkeys(values))
    return {kind: tuple(values) for kind, values in found.items()}


def build(settings: CookiesSettings | None = None) -> CookiesConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return CookiesConnector(settings or read(CookiesSettings))

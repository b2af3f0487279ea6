"""A connector that is a file: `DSR_DECLARATIVE_FILE` says which, and the variables it names say which account.

Room rules: joins a declaration, its variables and the procedures; no decision and no HTTP shape here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import METHODS, Connector, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read, secret_in_file
from connectors.systems.declarative.client import DeclarativeClient, variables
from connectors.systems.declarative.declaration import Choice, Declaration, Procedure, Setting
from connectors.systems.declarative.loading import load, shipped
from connectors.systems.declarative.procedure import Doing
from schemas.errors import ConfigurationError
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["DeclarativeConnector", "DeclarativeSettings", "build", "connector_class", "described"]


class DeclarativeSettings(ConnectorSettings):
    """Which file, and how long to wait: `DSR_DECLARATIVE_*`. All else is in the variables that the file names."""

    model_config = SettingsConfigDict(env_prefix="DSR_DECLARATIVE_")

    file: Annotated[str, Field(description="Path of the file, or the name of a shipped one")]
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 30.0


class DeclarativeConnector:
    """One account of a described system. Its subclasses, made by `connector_class`, have a method per right of the file."""

    declaration: ClassVar[Declaration]
    name: ClassVar[str]
    rights: ClassVar[frozenset[Right]]
    needs: ClassVar[frozenset[IdentifierKind]]
    yields: ClassVar[frozenset[IdentifierKind]]

    def __init__(self, environment: Mapping[str, str], *, timeout_seconds: float = 30.0) -> None:
        """Take the variables that the file names. Raises `ConfigurationError` naming each that is missing or wrong."""
        declaration = self.declaration
        values = _taken(declaration, environment)
        limits = declaration.throttle
        self.throttle = Throttle(
            concurrent=limits.concurrent,
            per_second=_figure(limits.per_second, values),
            per_day=limits.per_day,
            day_zone=limits.day_zone,
        )
        self._settings = {f"setting.{name}": values[setting.env] for name, setting in declaration.settings.items()}
        chosen = {right: _chosen(declaration, right, self._settings) for right in declaration.rights}
        self._procedures = {right: _dated(procedure, values) for right, procedure in chosen.items()}
        self._client = DeclarativeClient(declaration, values, timeout_seconds=timeout_seconds)

    async def check(self) -> str:
        """Make the file's `check` call: proves the credentials, and only those scopes that it needs."""
        await self._client.call(self.declaration.check, self._settings, "check")
        return f"{self.declaration.title}: credentials accepted"

    async def poll(self, job: Job, handle: str) -> Result:
        """Ask after the jobs that an earlier call started."""
        return await self._doing(job).ask(handle)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _doing(self, job: Job) -> Doing:
        return Doing(self.declaration, self._procedures[job.right], self._client, self._settings, job)


def connector_class(declaration: Declaration) -> type[DeclarativeConnector]:
    """Return the class of a declaration's connectors."""

    def method(right: Right) -> Callable[[DeclarativeConnector, Job], Awaitable[Result]]:
        async def do(self: DeclarativeConnector, job: Job) -> Result:
            return await self._doing(job).start()

        do.__name__, do.__doc__ = METHODS[right], f"Do what the file says under `rights.{right.value}`."
        return do

    members: dict[str, Any] = {METHODS[right]: method(right) for right in declaration.rights}
    members |= {
        "declaration": declaration,
        "name": declaration.name,
        "rights": frozenset(declaration.rights),
        "needs": declaration.needs,
        "yields": declaration.yields,
        "__doc__": f"{declaration.title}, as its file describes it.",
        "__module__": __name__,
    }
    return type(f"{declaration.name.title().replace('_', '')}Connector", (DeclarativeConnector,), members)


def described() -> dict[str, type[Connector]]:
    """Return the classes of the shipped files, by name."""
    return {name: connector_class(load(name)) for name in shipped()}


def _taken(declaration: Declaration, environment: Mapping[str, str]) -> dict[str, str]:
    named = variables(declaration)
    # A variable of the description that is called so itself, as for a refresh token that changes, is read as that.
    in_files = {name: secret_in_file(name, environment) for name in named if f"{name}_FILE" not in named}
    given = {name: in_files.get(name) or environment.get(name) for name in named}
    absent = sorted(name for name, default in named.items() if default is None and not given[name])
    if absent:
        guide = "a secret may lie in a file that <variable>_FILE names; see connectors/systems/declarative/README.md"
        raise ConfigurationError("; ".join([*(f"{name}: set this variable" for name in absent), guide]))
    return {name: given[name] or default or "" for name, default in named.items()}


def _chosen(declaration: Declaration, right: Right, settings: Mapping[str, str]) -> Procedure:
    doing = declaration.rights[right]
    if not isinstance(doing, Choice):
        return doing
    value = settings[f"setting.{doing.setting}"]
    if value not in doing.variants:
        variable = declaration.settings[doing.setting].env
        raise ConfigurationError(f"{variable}: is none of {', '.join(sorted(doing.variants))}")
    return doing.variants[value]


def _dated(procedure: Procedure, values: Mapping[str, str]) -> Procedure:
    days = _figure(procedure.effective_by_days, values)
    return procedure if days is None else procedure.model_copy(update={"effective_by_days": math.ceil(days)})


def _figure(given: float | Setting | None, values: Mapping[str, str]) -> float | None:
    """Return a number of the file, or of the variable that it names."""
    if not isinstance(given, Setting):
        return given
    try:
        figure = float(values[given.env])
    except ValueError:
        figure = 0.0
    if not 0 < figure < 100_000:
        raise ConfigurationError(f"{given.env}: give a number above 0 and below 100000")
    return figure


def build(settings: DeclarativeSettings | None = None, environment: Mapping[str, str] | None = None) -> DeclarativeConnector:
    """Build the connector of `DSR_DECLARATIVE_FILE`, from the environment unless given. Raises `ConfigurationError`."""
    given = settings or read(DeclarativeSettings)
    made = connector_class(load(given.file))
    return made(os.environ if environment is None else environment, timeout_seconds=given.timeout_seconds)

"""Find connectors by name: those of this package, and those that others register as entry points.

An outside author's package registers the package that holds its `connector` and `standin` modules:

    [project.entry-points."dsr.connectors"]
    acme = "acme_dsr"

Room rules: no system by name; a name is a folder or an entry point, never a path.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from importlib.metadata import entry_points
from types import ModuleType

from pydantic_settings import BaseSettings

from connectors.sdk.clock import Clock
from connectors.sdk.protocol import Connector
from connectors.sdk.standin import StandIn
from schemas.errors import ConfigurationError

__all__ = ["GROUP", "build_connector", "build_standin", "described", "must_be_known", "names", "standin_settings"]

#: Entry point group of outside connectors.
GROUP = "dsr.connectors"

_OURS = "connectors.systems"
#: Settings that prove who asks, by whichever of them a system knows it.
_CREDENTIALS = frozenset({"access_token", "api_key", "token"})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def names() -> list[str]:
    """Return the names of all connectors that can be built here."""
    return sorted({*_our_names(), *(point.name for point in entry_points(group=GROUP))})


def build_connector(name: str) -> Connector:
    """Build a connector from its settings. Raises `ConfigurationError`."""
    connector: Connector = _module(name, "connector").build()
    return connector


def build_standin(name: str, clock: Clock | None = None) -> StandIn:
    """Build a connector's stand-in. Raises `ConfigurationError`."""
    standin: StandIn = _module(name, "standin").build(clock)
    return standin


def must_be_known(name: str) -> None:
    """Raise `ConfigurationError` if there is no connector of that name."""
    _module(name, "connector")


def standin_settings(name: str, url: str) -> dict[str, str]:
    """Return the variables with which a connector speaks to its stand-in at this URL, as far as the stand-in's module has them.

    Empty for one whose address is no single base URL. Raises `ConfigurationError`.
    """
    known, prefix = vars(_module(name, "standin")), f"DSR_{name.upper()}_"
    for settings in vars(_module(name, "connector")).values():
        if not (isinstance(settings, type) and issubclass(settings, BaseSettings)):
            continue
        if settings.model_config.get("env_prefix") != prefix or "base_url" not in settings.model_fields:
            continue
        wanted = [field for field, about in settings.model_fields.items() if about.is_required() or field in _CREDENTIALS]
        constants = {field: known.get(field.upper()) for field in wanted}
        given = {field: value for field, value in constants.items() if isinstance(value, str)}
        base_url = f"{url}{known.get('PREFIX', '')}"
        return {f"{prefix}{field.upper()}": value for field, value in {"base_url": base_url, **given}.items()}
    return {}


def described() -> dict[str, type[Connector]]:
    """Return the classes of this package's connectors by name, without building any.

    A module of several systems says which by a function `described`; else it is the class that bears the connector's name. Of
    a class and its subclass the first counts.
    """
    found: dict[str, type[Connector]] = {}
    for name in _our_names():
        module = _module(name, "connector")
        told = getattr(module, "described", None)
        found |= _bearing(module, name) if told is None else told()
    return found


def _our_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(_OURS).__path__))


def _bearing(module: ModuleType, name: str) -> dict[str, type[Connector]]:
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__ and getattr(kind, "name", None) == name:
            return {name: kind}
    return {}


def _module(name: str, part: str) -> ModuleType:
    if not _NAME.fullmatch(name) or name not in names():
        raise ConfigurationError(
            f"no connector of that name; known are {', '.join(names())}; a package that `dsr-connector new` made must be "
            "installed first: pip install -e FOLDER"
        )
    outside = {point.name: point.value for point in entry_points(group=GROUP)}
    path = f"{outside.get(name, f'{_OURS}.{name}')}.{part}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ConfigurationError(f"the connector {name} has no {part}") from None
    if not callable(getattr(module, "build", None)):
        raise ConfigurationError(f"{path} has no function `build`")
    return module

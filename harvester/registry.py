"""The connectors that are installed: entry points of the group ``harvester.connectors``, a third party's included."""

from __future__ import annotations

import difflib
import inspect
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from harvester.errors import ConfigError

if TYPE_CHECKING:
    from harvester.connector import Connector


def connector_names() -> list[str]:
    """Return the names of the installed connectors, sorted; imports none of them."""
    return sorted(_entries())


def connector(name: str) -> type[Connector]:
    """
    Import and return one connector's class.

    Raises:
        ConfigError: if it is not installed or does not import.
    """
    entry = _entries().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, connector_names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"installed are {', '.join(connector_names())}"
        raise ConfigError("find connector", name, "no such connector is installed", hint=hint)
    try:
        found: type[Connector] = entry.load()
    except Exception as e:
        raise ConfigError("import connector", name, f"{type(e).__name__}: {e}", hint="reinstall its package") from e
    return found


def documentation(name: str) -> str:
    """Return a connector's documentation: the docstring of the module that defines it."""
    return inspect.cleandoc(sys.modules[connector(name).__module__].__doc__ or "")


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="harvester.connectors")}

"""
The metric packs of ``config/metrics/``: ready-made metrics a source takes by name, ``packs = ["http"]``.

A pack is a TOML file of ``[[metrics]]`` tables in the fields of its connector's metric specification, of
``[derived.NAME]`` tables as the settings have them, and a ``description``. Inside an installed wheel the folder is
``harvester/_config``, in a checkout it is ``config/``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvester.errors import ConfigError


def config_folder() -> Path:
    """Return the folder that holds ``harvester.example.toml`` and ``metrics/``."""
    package = Path(__file__).parent
    installed = package / "_config"
    return installed if installed.is_dir() else package.parent / "config"


def pack_names() -> list[str]:
    """Return the names of all packs, sorted."""
    return sorted(path.stem for path in (config_folder() / "metrics").glob("*.toml"))


def pack(name: str) -> Mapping[str, Any]:
    """
    Return one pack: ``description``, ``metrics`` and ``derived``, as they stand in its file.

    Raises:
        ConfigError: if there is no such pack.
    """
    path = config_folder() / "metrics" / f"{name}.toml"
    if name not in pack_names():
        raise ConfigError("read metric pack", name, "no such pack", hint=f"there are {', '.join(pack_names())}")
    with path.open("rb") as file:
        return tomllib.load(file)

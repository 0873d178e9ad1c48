"""
The contract a connector meets, and the options every connector shares.

A connector is one pydantic model: its fields are its options, its module docstring is its documentation. It yields
readings and proves coverage; it knows no store, no clock, no changes. Third parties add one through an entry point in
the group ``harvester.connectors``.
"""

from __future__ import annotations

import os
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, model_validator

from harvester.errors import ConnectorError
from harvester.readings import Coverage, Metric, Readings, Subject, Window

State: TypeAlias = Mapping[str, Any]
"""What a connector wants to be told next time: JSON values only. Empty at first."""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    One step of a collection. The store commits all of it in one transaction, or none.

    Attributes:
        readings: What the source said, one entry a series.
        coverage: The spans it proves complete.
        state: What to hand to the next collection, or None to leave it as it is.
        notes: Sentences a person should see in ``harvest status`` ("limit of 1,000 runs met, slices halved").
    """

    readings: tuple[Readings, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    state: State | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing `check` looked at: ``ok``, ``warning`` or ``failed``, with what would mend it."""

    level: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """
    What ``check`` found out about a source.

    Attributes:
        findings: In the order they were tried.
        oldest: The oldest instant the source still holds, milliseconds UTC, or None where it cannot tell.
        hosts: Every ``host:port`` the connector talks to; empty for files.
    """

    findings: tuple[Finding, ...]
    oldest: int | None = None
    hosts: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.level != "failed" for finding in self.findings)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> timedelta:
    """
    Return the duration that ``"90s"``, ``"5m"``, ``"2h"``, ``"28d"`` or ``"4w"`` names.

    >>> parse_duration("5m")
    datetime.timedelta(seconds=300)
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return timedelta(seconds=value)
    if isinstance(value, str) and value[-1:] in _UNITS and value[:-1].replace(".", "", 1).isdigit():
        seconds = float(value[:-1]) * _UNITS[value[-1]]
        if seconds > 0:
            return timedelta(seconds=seconds)
    raise ValueError(f'{value!r} is not a duration such as "30s", "5m", "2h" or "28d"')


def format_duration(value: timedelta) -> str:
    """Return the duration in its largest whole unit: ``5m``, ``28d``."""
    seconds = round(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]


class Connector(BaseModel, ABC):
    """
    One configured source. A subclass's fields are its options; unknown keys are errors.

    Attributes:
        source: The source's configured name, given by the settings.
        subjects: The things the engineer works on, given by the settings.
        every: How often it is collected.
        overlap: How much of the past is asked for again, for late data.
        reach: How far back the first collection asks at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    source: str
    subjects: tuple[Subject, ...] = ()
    every: Duration = timedelta(minutes=5)
    overlap: Duration = timedelta(minutes=10)
    reach: Duration = timedelta(days=90)

    @property
    def asked_again(self) -> timedelta:
        """How much of the past is asked for again: the overlap, or more where the connector needs more."""
        return max(self.overlap, self.least_overlap())

    def least_overlap(self) -> timedelta:
        """Return how much of the past must be asked for again for readings to be whole."""
        return timedelta(0)

    @abstractmethod
    def check(self) -> Health:
        """Look whether the source is reachable, with which rights, and how far back it reaches. Never raises."""

    @abstractmethod
    def definitions(self) -> Sequence[Metric]:
        """Return the metrics it yields, with the query that defines each. Contacts nothing."""

    @abstractmethod
    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        """
        Yield readings of the window, the newest first, with the coverage they prove.

        Same window, same source: same readings. Readings lie inside the window.

        Raises:
            ConnectorError: when the source cannot be read; what was yielded before stays valid.
        """


URL = r"^https?://[^\s@]+$"


class HttpConnector(Connector):
    """
    What every HTTP source takes. Secrets are named here, never written.

    Attributes:
        url: Base address.
        ca_file: A certificate authority to trust besides the system's.
        proxy: Address of an HTTP proxy.
        timeout: For each request.
        token_env: Name of the environment variable that holds the token.
        token_file: A file of mode 0600 that holds it.
        token_command: A command that prints it.
    """

    url: str = Field(pattern=URL)
    ca_file: Path | None = None
    proxy: str | None = None
    timeout: Duration = timedelta(seconds=30)
    token_env: str | None = None
    token_file: Path | None = None
    token_command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_token(self) -> HttpConnector:
        named = [name for name in ("token_env", "token_file", "token_command") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"give one of {' and '.join(named)}, not both")
        return self

    def token(self) -> SecretStr | None:
        """
        Return the token, or None where none is named.

        Raises:
            ConnectorError: if it is named and cannot be had; the message never holds it.
        """
        if self.token_env:
            found = os.environ.get(self.token_env, "").strip()
            if not found:
                raise ConnectorError(
                    "read token of", self.source, f"the environment variable {self.token_env} is not set",
                    hint=f"export {self.token_env}=...",
                )
            return SecretStr(found)
        if self.token_file:
            return SecretStr(_read_private(self.source, self.token_file))
        if self.token_command:
            try:
                done = subprocess.run(self.token_command, capture_output=True, text=True, timeout=20, check=True)
            except (OSError, subprocess.SubprocessError) as e:
                raise ConnectorError(
                    "read token of", self.source, f"the command {self.token_command[0]} failed ({type(e).__name__})",
                    hint="run it by hand; it must print the token and exit with 0",
                ) from None
            return SecretStr(done.stdout.strip())
        return None


def _read_private(source: str, path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConnectorError(
                "read token of", source, f"{path} can be read by others", hint=f"chmod 600 {path}"
            )
        return path.read_text().strip()
    except OSError as e:
        raise ConnectorError("read token of", source, f"{path}: {e.strerror}", hint="is token_file right?") from e

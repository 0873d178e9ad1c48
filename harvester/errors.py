"""
Everything harvester raises on purpose.

    HarvesterError
    +-- ConfigError       a setting is wrong; nothing was contacted
    +-- UsageError        a command was given something that resolves to nothing
    +-- ConnectorError    a source could not be read
    +-- StoreError        the store could not be read or written
    |   +-- StoreBusy     another process holds what was asked for
    |   +-- StoreVersion  the store was written by another version of harvester
    |   +-- DamagedBlock  one series' day fails its checksum; the rest is readable
    +-- DeliveryError     a digest could not be sent

Every one says what was tried, on what, what went wrong and what to do about it.
"""

from __future__ import annotations


class HarvesterError(Exception):
    """
    A failure a person can act on.

    Attributes:
        operation: What was being done, as a verb phrase: ``"query"``, ``"open store"``.
        target: On what: a source's name, a file, an address without credentials.
        cause: What went wrong, in one sentence, never a secret.
        hint: What would mend it, or ``""``.
        retry: Whether the same call may succeed later by itself.
    """

    def __init__(self, operation: str, target: str, cause: str, *, hint: str = "", retry: bool = False) -> None:
        super().__init__(operation, target, cause)
        self.operation = operation
        self.target = target
        self.cause = cause
        self.hint = hint
        self.retry = retry

    def __str__(self) -> str:
        sentence = f"{self.operation} {self.target}: {self.cause}"
        return f"{sentence} ({self.hint})" if self.hint else sentence


class ConfigError(HarvesterError):
    """A setting is wrong; the target names file, line and key."""


class UsageError(HarvesterError):
    """A command's words resolve to nothing that exists."""


class ConnectorError(HarvesterError):
    """A source could not be read; what is stored is untouched."""


class StoreError(HarvesterError):
    """The store could not be opened, read or written."""


class StoreBusy(StoreError):
    """Another process holds what was asked for."""


class StoreVersion(StoreError):
    """The store's schema or block format is newer than this harvester."""


class DamagedBlock(StoreError):
    """One series' day fails its checksum; the target names the series and the day."""


class DeliveryError(HarvesterError):
    """A digest could not be delivered."""

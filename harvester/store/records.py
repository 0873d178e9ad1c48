"""What the store hands out besides readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harvester.readings import Readings, Series, Window


@dataclass(frozen=True, slots=True)
class Written:
    """
    What a commit changed.

    Attributes:
        readings: Readings that were new or different.
        blocks: Blocks, pending rows and occurrences written.
    """

    readings: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Collection:
    """
    The record of one collection of one source: the snapshot.

    Attributes:
        source: Which source.
        started: Milliseconds UTC.
        finished: Milliseconds UTC.
        window: What was asked for.
        covered: The part proven complete for at least one metric.
        error: Why it ended early, or None.
        notes: What a person should know.
        readings: New or changed readings.
        versions: Of harvester, Python and the source's definitions.
        digest: A hash of all of it, given by the store.
    """

    source: str
    started: int
    finished: int
    window: Window
    covered: Window
    error: str | None = None
    notes: tuple[str, ...] = ()
    readings: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """
    Readings that cannot be read any more.

    Attributes:
        text: What is damaged and how, for a person.
        series: Whose readings; where a batch in waiting is damaged, whose they may be.
        window: Of which days; what to collect again.
        table: Where the bytes are.
        id: Which of its rows.
    """

    text: str
    series: tuple[Series, ...]
    window: Window
    table: str
    id: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do something alone for a while; ``fence`` rises with every new holder."""

    name: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class FrozenCopy:
    """
    Readings that never change again.

    Attributes:
        digest: SHA-256 of the content, its address.
        previous: Chain hash of the copy frozen before it, or ``""``.
        created: Milliseconds UTC.
        note: What it was frozen for.
        window: What was to be frozen.
        readings: One entry a series.
        coverage: The proven spans of each series.
    """

    digest: str
    previous: str
    created: int
    note: str
    window: Window
    readings: tuple[Readings, ...]
    coverage: Mapping[Series, Window]

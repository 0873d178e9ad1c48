"""Pending rows, looked at by series and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from harvester.readings import DAY
from harvester.store.codec import HEADS, Columns, Rows
from harvester.store.schema import DAY_BITS


class Waiting:
    """
    Readings that wait to be folded, by block id and the pending row they came in.

    Rows are looked at as columns: with 200 series, a day of minutes is one concatenation, not 288,000 objects.
    """

    def __init__(self, rows: Iterable[tuple[int, list[Rows]]]) -> None:
        """Take (id of the pending row, what ``decode_rows`` said of it), by rising id."""
        groups: dict[tuple[int, int], list[tuple[int, Rows]]] = defaultdict(list)
        for row, sections in rows:
            for section in sections:
                groups[len(section.columns.values), section.columns.first].append((row, section))
        self._pieces: dict[int, list[tuple[np.ndarray, Columns]]] = defaultdict(list)
        for (count, first), members in groups.items():
            at = np.concatenate([section.columns.at for _, section in members])
            number = np.concatenate([section.number for _, section in members])
            values = np.concatenate([section.columns.values for _, section in members], axis=1)
            source = np.repeat([row for row, _ in members], [len(section.number) for _, section in members])
            key = number << DAY_BITS | at // DAY
            order = np.argsort(key, kind="stable")
            key, at, values, source = key[order], at[order], values[:, order], source[order]
            # One series' log buckets may lie in several groups: cut apart by row, they can be put in order.
            new = key[1:] != key[:-1] if count < HEADS else (key[1:] != key[:-1]) | (source[1:] != source[:-1])
            edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(key)]
            for low, high in pairwise(edges):
                part = Columns(at[low:high], values[:, low:high], first)
                self._pieces[int(key[low])].append((source[low:high], part))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: int(piece[0][0]))

    @property
    def keys(self) -> list[int]:
        """Return the ids of the blocks that readings wait for, in order."""
        return sorted(self._pieces)

    def of(self, key: int, after: int) -> list[Columns]:
        """Return what waits for a block that already holds the pending rows up to ``after``, the oldest first."""
        found = []
        for source, part in self._pieces.get(key, ()):
            low = int(np.searchsorted(source, after, side="right"))
            if low < len(source):
                found.append(part.part(low, len(source)))
        return found

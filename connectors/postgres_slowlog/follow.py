"""
Following one server's log: which bytes were read, what they proved, what is still counting.

The state holds, for each file, the digest of its head and the offset up to which it was read; the hours that may still
grow, whole; and the spans for which reading was unbroken. It is committed with the readings it covers, so that killing
the process anywhere loses nothing and counts nothing twice.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.postgres_slowlog.files import Content, LogFile, blocks
from connectors.postgres_slowlog.hours import (
    OTHER,
    Calls,
    Hours,
    Key,
    Tally,
    buckets_of,
    distribution,
    joined,
    series_of,
)
from connectors.postgres_slowlog.messages import (
    CALLS,
    COMPANIONS,
    FAILURES,
    FETCH,
    FOREIGN,
    LOCALISED,
    PHASES,
    Columns,
    Format,
    shape_of,
)
from connectors.postgres_slowlog.statements import Group, Grouper
from connectors.postgres_slowlog.times import INVALID, Clock
from harvester.connector import Batch, State
from harvester.errors import ConnectorError
from harvester.readings import DAY, HOUR, MINUTE, Coverage, Distribution, Metric, Window

if TYPE_CHECKING:
    from harvester.readings import Int64s

BLOCK = 8 << 20
"""Bytes read at a time: regular expressions run over them whole."""
_BATCH_BYTES = 64 << 20
_BATCH_HOURS = 48
SLACK = MINUTE
"""By how much the next file may begin before or after the end of the last one and be its successor for certain."""
_MOST_SPANS = 200
_MOST_GONE = 50
_MOST_LINKS = 2000
_MOST_SAID = 200
_BACKENDS_BEHIND = HOUR
"""A time further ahead than this of what follows it is a clock that jumped."""

_THRESHOLD = re.compile(
    rb'parameter "+log_min_duration_statement"+ (?:changed to "+(-?\d+)(us|ms|s|min|h)?"+|removed from configuration)'
)
_UNITS = {b"us": 0.001, b"ms": 1.0, b"": 1.0, b"s": 1e3, b"min": 6e4, b"h": 3.6e6}


@dataclass(slots=True)
class Entry:
    """
    What is remembered of one file.

    Attributes:
        head: Digest of its first ``head_bytes``.
        head_bytes: How many that are.
        offset: Up to where its content was read.
        path: Where it was seen last.
        inode: Which one it had then.
        first: Its first message's time, milliseconds UTC.
        size: How large it lay on disk when all of it was read, or -1.
        left_out: Whether it is not read, because it tells again what another file told.
        live: Whether it was the one the server wrote to when the last collection ended.
    """

    head: str
    head_bytes: int
    offset: int
    path: str
    inode: tuple[int, int]
    first: int
    size: int = -1
    left_out: bool = False
    live: bool = False


@dataclass(slots=True)
class Step:
    """
    One file to read.

    Attributes:
        file: As it is now.
        entry: What is remembered of it.
        reader: What reads it, or None where nothing was added to it.
        new: Whether it was never read before.
        passed_over: Whether all of it lies before the window.
    """

    file: LogFile
    entry: Entry
    reader: Format | None
    new: bool
    passed_over: bool = False


@dataclass(slots=True)
class Options:
    """What the connector was told, as far as reading needs it."""

    source: str
    metrics: tuple[Metric, Metric]
    database: str
    threshold_us: int
    top: int


@dataclass(slots=True)
class Found:
    """What one collection met, for its notes."""

    counts: Counter[str] = field(default_factory=Counter)
    first_unread: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)


class Follower:
    """
    One collection's reading of a log, taken up where the state left it.

    Attributes:
        entries: What is remembered of files, in the order they were read.
        frontier: The latest time read, milliseconds UTC, or None before anything was.
    """

    def __init__(self, options: Options, clock: Clock, window: Window, state: State) -> None:
        self._options = options
        self._clock = clock
        self._window = window
        self._definition = [metric.definition for metric in options.metrics]
        known = state.get("version") == 1 and state.get("definition") == self._definition
        again = known and window.start < state["asked"]
        self.entries: list[Entry] = []
        self.frontier: int | None = None
        self._hours = Hours(options.top)
        self._since = window.start
        self._chain: int | None = None  # where the present unbroken reading began
        self._told: int | None = None  # up to where its coverage was yielded
        self._spans: list[tuple[int, int]] = []
        self._fresh: list[tuple[int, int]] = []
        self._before = Window()
        self._closed = 0
        self._seen = False
        self._blind = False
        self._said: list[str] = []
        self._tail: dict[str, Any] = {"digest": "", "calls": []}
        self._names: list[Path] = []
        self._links: dict[bytes, bytes | Group] = {}
        self._following = False
        if known:
            self._before = Window(tuple((start, end) for start, end in state["before"]))
            # What has a series keeps it, whatever is read again.
            self._hours = Hours.from_state(state["hours"], options.top)
        if again:
            spans = [*state["spans"], (state["chain"] or 0, state["frontier"] or 0)]
            self._before |= Window(tuple((start, end) for start, end in spans))
            self._hours.forget_calls()
        elif known:
            self._resume(state)
        self._grouper = Grouper()
        self._due: list[tuple[int, dict[Key, Tally | None], bool]] = []
        self.found = Found()

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.entries = [Entry(**{**one, "inode": tuple(one["inode"])}) for one in state["files"]]
        self.frontier = state["frontier"]
        self._since = state["since"]
        self._chain = state["chain"]
        self._told = state["told"]
        self._spans = [(start, end) for start, end in state["spans"]]
        self._closed = state["closed"]
        self._seen = state["seen"]
        self._blind = state["blind"]
        self._said = list(state["said"])
        self._tail = state["tail"]
        self._links = {pid.encode("latin-1"): Group(*group) for pid, group in state["links"].items()}

    def _state(self) -> dict[str, Any]:
        self._settle_links()
        links = {pid.decode("latin-1"): astuple(one) for pid, one in self._links.items() if isinstance(one, Group)}
        return {
            "version": 1,
            "definition": self._definition,
            "asked": self._window.start,
            "since": self._since,
            "files": [asdict(one) for one in self.entries],
            "frontier": self.frontier,
            "chain": self._chain,
            "told": self._told,
            "spans": self._spans[-_MOST_SPANS:],
            "before": [list(span) for span in self._before.spans[-_MOST_SPANS:]],
            "closed": self._closed,
            "seen": self._seen,
            "blind": self._blind,
            "said": self._said,
            "links": links,
            "hours": self._hours.to_state(),
        }

    # -- one collection -----------------------------------------------------------------------------------------------

    def read(self, steps: Sequence[Step], notes: Iterable[str] = ()) -> Iterator[Batch]:
        """Yield what the files say, in the order given, which is that of their first messages."""
        self.found.notes.update(dict.fromkeys(notes))
        # The file that was live then is here, to be read to its end: what is new came directly after it.
        self._following = any(step.entry.live for step in steps)
        self._names = [step.file.path for step in steps]
        before = self._progress()
        tail: tuple[Step, Format, bytes] | None = None
        for index, step in enumerate(steps):
            if step.reader is None or (step.new and not self._takes(step)):
                continue
            unsettled = yield from self._step(step, step.reader, last=index == len(steps) - 1)
            if unsettled:
                tail = (step, step.reader, unsettled)
        self._remember(steps)
        state = self._state()
        state["tail"] = self._tail
        if tail is not None:
            digest = _short(tail[2])
            if digest != self._tail["digest"] or self._progress() != before:
                # Told now, but read again the next time: more of it may come.
                touched: dict[tuple[int, Key], str] = {}
                self._hours.touched = touched
                self._block(*tail)
                calls = [[hour, *key, query] for (hour, key), query in touched.items()]
                state["tail"] = {"digest": digest, "calls": calls}
        said = self._notes()
        state["said"] = self._said
        if said or state["tail"] != self._tail or self._progress() != before:
            yield self._batch(state, final=True, notes=said)

    def _progress(self) -> list[int]:
        return [one.offset for one in self.entries]

    def _step(self, step: Step, reader: Format, *, last: bool) -> Generator[Batch, None, bytes]:
        """Read what was added to a file; return its last message if that may go on."""
        entry, size, beyond = step.entry, 0, b""
        try:
            for offset, added, settled in self._blocks(step, reader, last=last):
                block = beyond + added
                if not settled:
                    return block
                done = self._block(step, step.reader or reader, block)
                entry.offset = offset - len(beyond) + done
                size += done
                if done < len(block):
                    if beyond:
                        return b""
                    beyond = block[done:]  # only what follows tells the window's end from a clock that jumped
                    continue
                beyond = b""
                if size >= _BATCH_BYTES or len(self._due) >= _BATCH_HOURS:
                    size = 0
                    yield self._batch({**self._state(), "tail": self._tail})
            if not beyond and (step.file.compressed or entry.offset == step.file.size):
                entry.size = step.file.size
            return b""
        finally:
            entry.path, entry.inode = str(step.file.path), step.file.inode
            if len(step.file.head) > entry.head_bytes:
                entry.head_bytes = len(step.file.head)
                entry.head = step.file.digest(entry.head_bytes)

    def _remember(self, steps: Sequence[Step]) -> None:
        """Forget files that are gone, the oldest first; one that comes back is not to be read twice."""
        here = {id(step.entry) for step in steps}
        gone = [one for one in self.entries if id(one) not in here and not one.left_out]
        forgotten = {id(one) for one in gone[:-_MOST_GONE]}
        self.entries = [one for one in self.entries if id(one) not in forgotten]
        read = [step.entry for step in steps if not step.entry.left_out]
        for one in self.entries:
            one.live = bool(read) and one is read[-1]

    def _blocks(self, step: Step, reader: Format, *, last: bool) -> Iterator[tuple[int, bytes, bool]]:
        # Nobody writes any more to a file with a successor, or one that has been left alone for a while.
        whole = not last or step.file.modified < self._window.end - SLACK
        try:
            with Content(step.file.path, step.entry.offset) as content:
                if content.short:
                    return
                yield from blocks(content, step.entry.offset, reader, BLOCK, whole=whole)
                if content.damaged:
                    said = f"{step.file.path} breaks off: its archive is damaged, what came before was read"
                    self.found.notes[said] = None
                    self._break()
        except FileNotFoundError:
            self.found.notes[f"{step.file.path} vanished while it was read"] = None
        except OSError as e:
            raise ConnectorError(
                "read log of", self._options.source, f"{step.file.path}: {e.strerror}",
                hint="is the disk well?", retry=True,
            ) from e

    def _takes(self, step: Step) -> bool:
        """Take a new file into the sequence: as a direct successor, after a gap, or not at all."""
        entry, first = step.entry, step.entry.first
        if step.passed_over:
            entry.offset = entry.size = step.file.size
            self.entries.append(entry)
            return False
        previous = next((one for one in reversed(self.entries) if not one.left_out), None)
        self.entries.append(entry)
        if self.frontier is None or previous is None:
            return True
        if first < self.frontier - SLACK:
            entry.left_out = True
            self.found.notes[
                f"{step.file.path} begins before the end of what was already read and was left out: is it a copy, or "
                "another server's log? (harvest collect --since DATE reads everything again)"
            ] = None
            return False
        if first - self.frontier > SLACK and not self._is_successor(previous, step):
            self._break()
        return True

    def _is_successor(self, previous: Entry, step: Step) -> bool:
        """Tell whether nothing can have been written between two files, however long nothing was."""
        before, after = Path(previous.path), step.file.path
        if self._following or _is_next_number(before, after):
            return True
        return _is_next_date(before, after, [*(Path(one.path) for one in self.entries), *self._names])

    # -- one block ----------------------------------------------------------------------------------------------------

    def _block(self, step: Step, reader: Format, block: bytes) -> int:
        """Take in the messages of a block up to the end of the window; return how many bytes that were."""
        import numpy as np

        columns = reader.read(block)
        better = reader.better(columns, block)
        if better is not None:
            step.reader = reader = better
            columns = reader.read(block)
        done = len(block)
        ahead = np.flatnonzero(columns.at >= self._window.end)
        if len(ahead):
            # A time that is followed by far earlier ones is no end of the window, but a clock that jumped.
            later = np.where(columns.at == INVALID, columns.at.max(), columns.at)
            later = np.minimum.accumulate(later[::-1])[::-1]
            ends = ahead[later[ahead] >= columns.at[ahead] - _BACKENDS_BEHIND]
            if len(ends):
                done = reader.starts(block)[int(ends[0])]
                columns = reader.read(block[:done])
        self._take(step, reader, columns, block[:done])
        if self._grouper.is_full:
            self._settle_links()
            self._grouper.forget()
        return done

    def _take(self, step: Step, reader: Format, columns: Columns, block: bytes) -> None:
        import numpy as np

        counts = self.found.counts
        counts["lines"] += block.count(b"\n")
        counts["messages"] += len(columns)
        counts["unread"] += columns.unread
        if columns.unread:
            self.found.first_unread.setdefault(str(step.file.path), shape_of(columns.first_unread))
        at = columns.at
        sane = (at != INVALID) & (at < self._window.end)
        counts["misdated"] += int((~sane).sum())
        if not len(at):
            if columns.lost:
                self._break()
            return
        begin = self.frontier if self.frontier is not None else int(at[np.argmax(sane)])
        so_far = np.maximum.accumulate(np.where(sane, at, begin))
        so_far = np.maximum(so_far, begin)
        calls = self._calls(step, reader, columns, sane, so_far)
        breaks = self._threshold_changes(columns, block) | dict.fromkeys(columns.lost, "lost")
        # The log's hour never goes back; where it moves on, hours close; where something was lost, proof begins anew.
        hour = so_far // HOUR
        edges = sorted({0, *(np.flatnonzero(np.diff(hour)) + 1).tolist(), *(one for one in breaks if one < len(at))})
        rows = calls.row
        for low, high in zip(edges, [*edges[1:], len(at)], strict=True):
            if low in breaks:
                if breaks[low] == "blind":
                    self.frontier = int(so_far[low])
                self._break(blind=breaks[low])
            if not sane[low:high].any() and self.frontier is None:
                continue
            if self._chain is None and not self._blind:
                self._chain = self._told = int(so_far[low])
            self.frontier = int(so_far[low])
            self._advance(int(hour[low]))
            chosen = slice(int(np.searchsorted(rows, low)), int(np.searchsorted(rows, high)))
            self._hours.add(calls.calls, chosen)
            self.frontier = int(so_far[high - 1])
        if len(at) in breaks:
            self._break(blind=breaks[len(at)])

    def _advance(self, hour: int) -> None:
        """Close the hours that cannot grow any more now that the log has come to ``hour``."""
        if not self._closed:
            self._closed = hour - 1
        while self._closed < hour - 1:
            covered = self._covers(self._closed)
            tallies = self._hours.close(self._closed, covered=covered)
            if tallies or covered:
                self._due.append((self._closed, tallies, covered))
            self._closed += 1

    def _covers(self, hour: int) -> bool:
        start, end = hour * HOUR, (hour + 1) * HOUR
        if not self._seen:
            return False
        if self._chain is not None and self._chain <= start and self.frontier is not None and self.frontier >= end:
            return True
        return any(low <= start and end <= high for low, high in self._spans)

    def _break(self, *, blind: str = "") -> None:
        """End the unbroken reading; the next message begins another, unless the log no longer says everything."""
        if self._chain is not None and self.frontier is not None and self._seen:
            self._spans.append((self._chain, self.frontier))
            self._fresh.append((self._told or self._chain, self.frontier))
        self._chain = self._told = None
        if blind in ("blind", "seeing"):
            self._blind = blind == "blind"

    def _threshold_changes(self, columns: Columns, block: bytes) -> dict[int, str]:
        """Return where the log says that from there on it holds less, or again as much, as was declared."""
        if b"log_min_duration_statement" not in block:
            return {}
        found = {}
        was_blind = self._blind
        for index, text in enumerate(columns.text):
            if columns.severity[index] != b"LOG" or columns.duration[index] >= 0:
                continue
            match = _THRESHOLD.match(text)
            if match is None:
                continue
            value = -1.0 if match[1] is None else int(match[1]) * _UNITS[match[2] or b""]
            blind = value < 0 or value * 1000 > self._options.threshold_us
            if blind != was_blind:
                found[index] = "blind" if blind else "seeing"
            was_blind = blind
            if blind:
                said = "off" if value < 0 else f"{value:g} ms"
                self.found.notes[
                    f"the log says that log_min_duration_statement became {said}: what follows proves nothing "
                    "(declare it as threshold_ms)"
                ] = None
        return found

    # -- calls --------------------------------------------------------------------------------------------------------

    def _calls(self, step: Step, reader: Format, columns: Columns, sane: Any, so_far: Int64s) -> _RowsOfCalls:
        """Return the calls of a block and the rows they stand in; everything else is counted."""
        import numpy as np

        counts = self.found.counts
        timed = np.flatnonzero(columns.duration >= 0)
        kinds = [columns.kind[index] for index in timed.tolist()]
        texts_of = self._grouper.csv_texts if reader.doubled_quotes else self._grouper.texts
        self._seen = self._seen or len(timed) > 0
        linked = self._link(step, reader, columns)
        plain = Counter(kinds)
        counts["phases"] += sum(plain[kind] for kind in PHASES)
        counts["plans"] += plain[b"plan"]
        counts["foreign"] += plain[FOREIGN]
        counts["fastpath"] += plain[b"fastpath function call"]
        counts["unattributed"] += plain[b""] - len(linked)
        wanted = [kind in CALLS or kind == FETCH for kind in kinds]
        rows = timed[np.array(wanted, bool)] if len(timed) else timed
        if linked:
            rows = np.union1d(rows, np.array(list(linked), np.int64))
        late = columns.at[rows] // HOUR < so_far[rows] // HOUR - 1
        keep = sane[rows] & ~late
        counts["late"] += int((late & sane[rows]).sum())
        micros = columns.duration[rows]
        under = micros < self._options.threshold_us
        counts["under"] += int(under.sum())
        keep &= ~under & (columns.at[rows] // HOUR * HOUR >= self._since)
        rows, micros = rows[keep], micros[keep]
        indices = rows.tolist()
        if linked:
            numbers = [self._number_of(linked[i]) if i in linked else texts_of[columns.text[i]] for i in indices]
        else:
            text = columns.text
            numbers = list(map(texts_of.__getitem__, [text[i] for i in indices]))
        databases = self._databases(columns, indices, doubled=reader.doubled_quotes)
        number = np.array(numbers, np.int64)
        names = list(dict.fromkeys(databases))
        width = max(1, len(names))
        if width > 1:
            number = number * width + np.array([names.index(one) for one in databases], np.int64)
        together, first, inverse = np.unique(number, return_index=True, return_inverse=True)
        order = np.argsort(first)  # groups in the order they first occur
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        found = [divmod(one, width) for one in together[order].tolist()]
        groups = [self._grouper.groups[one] for one, _ in found]
        keys = [Key(group.fingerprint, names[code]) for group, (_, code) in zip(groups, found, strict=True)]
        bucket = buckets_of(micros)
        if plain[FETCH]:
            bucket[np.array([columns.kind[i] == FETCH for i in indices], bool)] = -1
        counts["calls"] += int((bucket >= 0).sum())
        calls = Calls(
            hour=columns.at[rows] // HOUR,
            group=rank[inverse.reshape(-1)],
            micros=micros,
            bucket=bucket,
            keys=keys,
            queries=[one.query for one in groups],
            first=so_far[rows[first[order]]].tolist(),
        )
        self._hours.admit(calls)
        return _RowsOfCalls(calls, rows)

    def _databases(self, columns: Columns, indices: list[int], *, doubled: bool) -> list[str]:
        names = columns.database
        if names is None:
            return [self._options.database] * len(indices)
        raw = [names[i] for i in indices]
        shown = {}
        for one in set(raw):
            name = (one.replace(b'""', b'"') if doubled else one).decode("utf-8", "replace")
            shown[one] = self._options.database if name in ("", "[unknown]") else name
        return [shown[one] for one in raw]

    def _link(self, step: Step, reader: Format, columns: Columns) -> dict[int, bytes | Group]:
        """
        Return the statement of each bare duration: the last one its process logged.

        ``log_duration`` writes the two in lines of their own, and so does a threshold beside ``log_statement``.
        """
        import numpy as np

        found: dict[int, bytes | Group] = {}
        timed = np.flatnonzero(columns.duration >= 0).tolist()
        bare = {index for index in timed if not columns.kind[index] and not columns.text[index]}
        others = np.flatnonzero(columns.duration < 0).tolist()
        doubled = reader.doubled_quotes
        for index in sorted([*bare, *others]) if bare else others:
            severity, text = columns.severity[index], columns.text[index]
            if severity in COMPANIONS:
                continue
            if not self._seen and LOCALISED.match(text):
                raise ConnectorError(
                    "read log of", self._options.source,
                    f"{step.file.path} holds durations in another language: {shape_of(severity + b':  ' + text)}",
                    hint="only English messages are read; set lc_messages = 'C' on the server",
                )
            if columns.pid is None:
                continue
            pid = columns.pid[index]
            if index in bare:
                if (link := self._links.pop(pid, None)) is not None:
                    found[index] = link
            elif severity in FAILURES:
                self._links.pop(pid, None)
            elif severity == b"LOG" and text.startswith((b"statement: ", b"execute ")):
                statement = text.partition(b": ")[2]
                self._links.pop(pid, None)
                self._links[pid] = statement.replace(b'""', b'"') if doubled else statement
                if len(self._links) > _MOST_LINKS:
                    del self._links[next(iter(self._links))]
        return found

    def _number_of(self, text: bytes | Group) -> int:
        return self._grouper.adopt(text) if isinstance(text, Group) else self._grouper.texts[text]

    def _settle_links(self) -> None:
        """Put groups for the statements that wait for their duration: a text outlives no batch."""
        for pid, text in self._links.items():
            if not isinstance(text, Group):
                self._links[pid] = self._grouper.groups[self._grouper.texts[text]]

    # -- batches ------------------------------------------------------------------------------------------------------

    def _batch(self, state: State, *, final: bool = False, notes: tuple[str, ...] = ()) -> Batch:
        hours = self._due
        self._due = []
        if final:
            hours += [(hour, dict(tallies), False) for hour, tallies in self._hours.open_tallies()]
        for tail, *key, query in self._tail["calls"]:
            # What was told of an unsettled message is taken back where it was not the whole of it.
            for hour, tallies, _ in hours:
                if hour == tail and tallies.setdefault(Key(*key), None) is None:
                    self._hours.recall(Key(*key), query)
        batch = Batch(
            readings=tuple(self._readings(hours)),
            coverage=tuple(self._coverage()),
            state=state,
            notes=notes,
        )
        self._hours.forget_dropped(self._closed)
        return batch

    def _readings(self, hours: Iterable[tuple[int, Mapping[Key, Tally | None], bool]]) -> Iterator[Distribution]:
        by_group, by_database = self._options.metrics
        rows: dict[tuple[Metric, Key, int], list[tuple[int, Tally | None]]] = {}

        def put(metric: Metric, key: Key, hour: int, tally: Tally | None) -> None:
            rows.setdefault((metric, key, hour * HOUR // DAY), []).append((hour, tally))

        for hour, tallies, covered in hours:
            start, end = hour * HOUR, (hour + 1) * HOUR
            if start < self._since or start >= self._window.end:
                continue
            if not covered and not Window.of(start, end) - self._before:
                continue  # it was read wholly once, and its beginning is gone meanwhile
            databases: dict[str, list[Tally]] = {}
            for key, tally in tallies.items():
                put(by_group, key, hour, tally)
                parts = databases.setdefault(key.database, [])
                if tally is not None:
                    parts.append(tally)
            for database, parts in databases.items():
                put(by_database, Key("", database), hour, joined(parts))
        for (metric, key, _), found in rows.items():
            query = None if metric is by_database else self._hours.query_of(key)
            series = series_of(self._options.source, metric, key, query)
            yield distribution(series, [hour for hour, _ in found], [tally for _, tally in found])

    def _coverage(self) -> Iterator[Coverage]:
        by_group, by_database = self._options.metrics
        if self._chain is not None and self._seen and self.frontier is not None:
            self._fresh.append((self._told or self._chain, self.frontier))
            self._told = self.frontier
        whole = Window(tuple(self._fresh)) & Window.of(self._since, self._window.end)
        self._fresh = []
        if not whole:
            return
        yield Coverage(by_database.name, whole)
        full = self._hours.full_since
        # Until a call is pooled as other, an absent group was not called; later that is known of those kept only.
        told = whole if full is None else whole - Window.of(full, max(full, whole.end))
        if told:
            yield Coverage(by_group.name, told)
        if full is None or full >= whole.end:
            return
        rest = whole & Window.of(full, whole.end)
        spans: list[tuple[Key, Window]] = [(Key(OTHER, name), rest) for name in self._hours.databases]
        spans += [(key, rest - Window.of(0, one.since)) for key, one in self._hours.kept.items()]
        spans += [(key, rest & Window.of(0, until)) for key, (_, until) in self._hours.dropped.items()]
        for key, window in spans:
            if window:
                series = series_of("", by_group, key, self._hours.query_of(key))
                yield Coverage(by_group.name, window, series.labels)

    def _notes(self) -> tuple[str, ...]:
        """Return what a person should know: counts of this collection, and what was not said before."""
        counts = self.found.counts
        said = dict(self.found.notes)
        if counts["messages"] and not self._seen:
            said["messages were read and no duration among them: is log_min_duration_statement set?"] = None
        new = [text for text in said if _short(text) not in self._said]
        self._said = [*self._said, *map(_short, new)][-_MOST_SAID:]
        for path, shape in self.found.first_unread.items():
            new.append(f"{path}: not every line belongs to a message, one that does not is like: {shape}")
        new += [text.format(**counts) for name, text in _COUNTED.items() if counts[name]]
        return tuple(new)


def _short(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:12]


_COUNTED = {
    "unread": "{unread} of {lines} lines were not read",
    "misdated": "{misdated} messages have an impossible time, or one ahead of what follows, and were left out",
    "late": "{late} calls are more than an hour older than what was logged before them and were left out",
    "unattributed": "{unattributed} durations without a statement could not be linked to one and were left out",
    "foreign": "{foreign} messages pretend to be a duration (raised by a function, two in a line) and were left out",
    "under": "{under} calls took less than threshold_ms and were left out: the server logs more than was declared",
    "fastpath": "{fastpath} fastpath calls were left out",
}


@dataclass(frozen=True, slots=True)
class _RowsOfCalls:
    """Calls, and the rows of the block they stand in; int64, shape (n,)."""

    calls: Calls
    row: Int64s


# ---------------------------------------------------------------------------------------------------------------------
# Succession by name
# ---------------------------------------------------------------------------------------------------------------------

_PACKED = re.compile(r"\.(?:gz|xz|bz2)$")
_NUMBERED = re.compile(r"(.+)\.(\d{1,3})")
_DATED = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[_T-]?(\d\d):?(\d\d)(\d\d)?)?")


def _number(path: Path) -> tuple[str, int]:
    name = _PACKED.sub("", path.name)
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


def _is_next_number(before: Path, after: Path) -> bool:
    """
    Tell whether rotation by numbers put one file directly before another.

    >>> _is_next_number(Path("postgresql.log.2.gz"), Path("postgresql.log.1"))
    True
    """
    (name, number), (other, less) = _number(before), _number(after)
    return before.parent == after.parent and name == other and number == less + 1


def _is_next_date(before: Path, after: Path, every: Iterable[Path]) -> bool:
    """Tell whether the dates in two names are as far apart as is the rule among those of all files."""
    kind = _DATED.sub("*", _PACKED.sub("", after.name))
    alike = [path for path in (*every, before, after) if _DATED.sub("*", _PACKED.sub("", path.name)) == kind]
    dates = {path: _date(path) for path in alike}
    known = sorted({date for date in dates.values() if date is not None})
    steps = Counter(later - earlier for earlier, later in pairwise(known))
    if not steps or (first := dates.get(before)) is None or (second := dates.get(after)) is None:
        return False
    usual, times = steps.most_common(1)[0]
    return times >= 2 and second - first == usual


def _date(path: Path) -> datetime | None:
    match = _DATED.search(path.name)
    if match is None:
        return None
    try:
        return datetime(*(int(part) for part in match.groups(default="0")))  # type: ignore[arg-type]  # noqa: DTZ001
    except ValueError:
        return None

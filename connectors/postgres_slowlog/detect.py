"""Which format a file is in, and in which order files follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from connectors.postgres_slowlog.csvlog import Csvlog
from connectors.postgres_slowlog.files import Content, LogFile
from connectors.postgres_slowlog.follow import Entry, Step
from connectors.postgres_slowlog.jsonlog import Jsonlog
from connectors.postgres_slowlog.messages import Columns, Format, shape_of
from connectors.postgres_slowlog.stderr import Stderr, detect_prefix
from connectors.postgres_slowlog.times import INVALID, Clock
from harvester.errors import ConnectorError

_SAMPLES = (64 << 10, 8 << 20)
"""How much of a file is looked at, and how much more if nothing was understood in that."""


@dataclass(frozen=True, slots=True)
class Look:
    """
    What a look at a file's beginning told.

    Attributes:
        reader: What reads it.
        columns: The messages of the sample.
    """

    reader: Format
    columns: Columns

    @property
    def first(self) -> int:
        """The first message's time, milliseconds UTC."""
        return next((at for at in self.columns.at.tolist() if at != INVALID), 0)


class Detector:
    """Finds out how files are to be read."""

    def __init__(self, source: str, clock: Clock, format_name: str, prefix: str | None) -> None:
        self._source = source
        self._clock = clock
        self._format = format_name
        self._given = Stderr(prefix, clock) if prefix is not None else None
        self._stderr: dict[str, Stderr] = {}
        self._csvlog = Csvlog(clock)
        self._jsonlog = Jsonlog(clock)

    def look(self, file: LogFile) -> Look | None:
        """
        Return how a file is to be read, or None where it holds no whole message yet.

        Raises:
            ConnectorError: if not one message in it is understood.
        """
        sample = b""
        for size in _SAMPLES:
            with Content(file.path) as content:
                sample = content.read(size)
            whole = sample[: sample.rfind(b"\n") + 1] or (sample if len(sample) >= size else b"")
            if not whole:
                return None
            reader = self._reader(whole)
            if reader is not None:
                return Look(reader, reader.read(whole))
            if len(sample) < size:
                if self._format in ("auto", "csvlog") and self._csvlog.begins(sample):
                    return None
                break
        line = sample.lstrip(b"\r\n").partition(b"\n")[0]
        raise ConnectorError(
            "read log of", self._source,
            f"nothing in {file.path} was understood; its first line is like: {shape_of(line)}",
            hint=self._hint(sample),
        )

    def _reader(self, sample: bytes) -> Format | None:
        if self._format in ("auto", "csvlog") and self._csvlog.score(sample):
            return self._csvlog
        if self._format in ("auto", "jsonlog") and sample.lstrip()[:1] == b"{" and self._jsonlog.score(sample):
            return self._jsonlog
        if self._format in ("csvlog", "jsonlog"):
            return None
        if self._given is not None:
            return self._given if self._given.score(sample)[0] else None
        for known in self._stderr.values():  # most files of a server are alike
            if known.score(sample)[0] == sample.count(b"\n"):
                return known
        found = detect_prefix(sample, self._clock)
        return self._stderr.setdefault(found.prefix, found) if found is not None else None

    def _hint(self, sample: bytes) -> str:
        if sample.lstrip()[:1] == b"{":
            return "this looks like JSON, but not like the server's own jsonlog"
        if b"\0" in sample[:1024]:
            return "this is no text; leave it out of paths"
        if self._given is not None:
            return "prefix must be the server's log_line_prefix, letter by letter; leave it out to have it detected"
        return 'give the server\'s log_line_prefix, as in prefix = "%m [%p] ", or leave the file out of paths'


def plan(
    files: Sequence[LogFile], entries: Sequence[Entry], detector: Detector, begin: int
) -> tuple[list[Step], list[str], list[ConnectorError]]:
    """
    Return what to read in which order, what to say about it, and which files cannot be read.

    A file is known again by its head. A copy of another file, a stderr log beside the csvlog of the same name, and what
    lies before ``begin`` as a whole are left out.
    """
    steps: list[Step] = []
    notes: list[str] = []
    failures: list[ConnectorError] = []
    taken: dict[int, LogFile] = {}
    heads: dict[str, LogFile] = {}
    chosen = _without_twins(files, notes)
    lengths = sorted({one.head_bytes for one in entries}, reverse=True)
    by_head = {(one.head_bytes, one.head): one for one in entries}
    # The plain file before its packed copy, the same inode before another, the longer before the shorter.
    inodes = {one.inode for one in entries}
    for file in sorted(chosen, key=lambda one: (one.compressed, one.inode not in inodes, -one.size, str(one.path))):
        if not file.head:
            continue
        known = next(
            (
                found
                for length in lengths
                if length <= len(file.head) and (found := by_head.get((length, file.digest(length)))) is not None
            ),
            None,
        )
        whole = file.digest(len(file.head))
        twin = taken.get(id(known)) if known is not None else heads.get(whole)
        if twin is not None:
            notes.append(f"{file.path} begins like {twin.path} and was left out: it is the same log twice")
            continue
        if known is not None and known.size == file.size and known.inode == file.inode:
            taken[id(known)] = file
            if not known.left_out:
                steps.append(Step(file, known, None, new=False))
            continue
        try:
            look = detector.look(file)
        except ConnectorError as e:
            failures.append(e)
            continue
        if look is None:
            continue
        if known is not None:
            taken[id(known)] = file
            if not known.left_out:
                steps.append(Step(file, known, look.reader, new=False))
            continue
        heads[whole] = file
        entry = Entry(whole, len(file.head), 0, str(file.path), file.inode, look.first)
        steps.append(Step(file, entry, look.reader, new=True))
    steps.sort(key=lambda step: (step.entry.first, str(step.file.path)))
    for step, following in pairwise(steps):
        if step.new and following.entry.first <= begin:
            step.passed_over = True
    return steps, notes, failures


def _without_twins(files: Sequence[LogFile], notes: list[str]) -> list[LogFile]:
    """Leave out the logs that the server keeps beside a csvlog, or the stderr log beside a jsonlog."""
    paths = {file.path for file in files}
    chosen = []
    for file in files:
        fuller = {".log": (".csv", ".json"), ".json": (".csv",)}.get(file.path.suffix, ())
        twin = next((one for suffix in fuller if (one := file.path.with_suffix(suffix)) in paths), None)
        if twin is None or not file.size:
            chosen.append(file)
        else:
            notes.append(f"{file.path} was left out: {twin.name} tells the same")
    return chosen

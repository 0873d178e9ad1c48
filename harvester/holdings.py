"""
What is held of a subject: series as they are stored, renamed ones joined, derived ones made of them.

The one way to a series for whatever compares, shows or freezes: a derived series, or one that had another name once,
is read like any other. Everything comes from the store, or, for what was frozen, from the frozen copy: that copy holds
the stored series only, and what is derived is derived again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from harvester.derive import SOURCE, Held, Rule, UnderivableError, column_of, derive, summable
from harvester.errors import UsageError
from harvester.readings import (
    DAY,
    Labels,
    Metric,
    Occurrences,
    Readings,
    Series,
    Silence,
    Subject,
    Window,
    labels_of,
    subject_of,
)

if TYPE_CHECKING:
    from harvester.settings import Settings
    from harvester.store import FrozenCopy, Store

NEVER = 2**62
"""Later than any reading."""

_Name: TypeAlias = tuple[str, str, Labels]
"""Source, metric and labels: what a series is called."""


# ---------------------------------------------------------------------------------------------------------------------
# Renames
# ---------------------------------------------------------------------------------------------------------------------

_LABEL = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Alias:
    """
    A metric, or the value of a label, that was called otherwise before.

    Attributes:
        old: ``http_latency``, or ``service=checkout-old``.
        new: ``latency``, or ``service=checkout``; a label may have another name as well.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        if bool(_LABEL.fullmatch(self.old)) != bool(_LABEL.fullmatch(self.new)):
            raise UsageError(
                "join", f"{self.old} and {self.new}", "one is a label and the other a metric",
                hint="OLD NEW are two metrics, or two labels as in service=shop service=checkout",
            )  # fmt: skip
        if self.old == self.new:
            raise UsageError("join", self.old, "is the same name twice", hint="harvest metrics alias OLD NEW")

    def __str__(self) -> str:
        return f"{self.old} -> {self.new}"

    @property
    def of_label(self) -> bool:
        """Whether a label was renamed, not a metric."""
        return _LABEL.fullmatch(self.old) is not None

    def renamed(self, name: _Name) -> _Name:
        """Return what a series is called now; the same where the alias does not speak of it."""
        source, metric, labels = name
        old, new = _LABEL.fullmatch(self.old), _LABEL.fullmatch(self.new)
        if old is None or new is None:
            return (source, self.new, labels) if metric == self.old else name
        carried = dict(labels)
        if carried.get(old["name"]) != old["value"]:
            return name
        del carried[old["name"]]
        return source, metric, labels_of({**carried, new["name"]: new["value"]})


@dataclass(frozen=True, slots=True)
class Join:
    """
    A series that goes on under another name, or why it does not.

    Attributes:
        alias: What says so.
        old: The series that stopped.
        new: The series that goes on.
        problem: Why they are not joined, or ``""``.
        since: The first reading under the new name, milliseconds UTC, where that was looked up.
        overlap: How many readings the old name has from then on; those of the new one count.
    """

    alias: Alias
    old: Series
    new: Series
    problem: str = ""
    since: int | None = None
    overlap: int = 0


def aliases(store: Store) -> list[Alias]:
    """Return the renames that were told, in the order they were."""
    return [Alias(one["old"], one["new"]) for one in store.list("alias")]


def joins_of(stored: Sequence[Series], told: Sequence[Alias]) -> tuple[Join, ...]:
    """
    Return what renames join among stored series, of each new series the last name before first, and what they cannot.

    Of an old name the last definition goes on, under the first definition of the new name that it fits: what was
    defined otherwise before or since stays a series of its own.
    """
    by_name: dict[_Name, list[Series]] = {}
    for one in stored:
        by_name.setdefault(_name(one), []).append(one)
    found: list[tuple[int, Join]] = []
    for name, olds in by_name.items():
        path = _path(name, told)
        known = [index for index, (_, later) in enumerate(path) if later in by_name]
        if not known:
            continue
        alias, there = path[0][0], path[known[-1]][1]
        vouched = any(not each.of_label for each, _ in path[: known[-1] + 1])
        fit = [one for one in by_name[there] if not _misfit(olds[-1].metric, one.metric, renamed=vouched)]
        new = (fit or by_name[there])[0]
        problem = "" if fit else _misfit(olds[-1].metric, new.metric, renamed=vouched)
        found.append((known[-1], Join(alias, olds[-1], new, problem)))
        found += [(known[-1], Join(alias, one, new, "it was defined differently before")) for one in olds[:-1]]
    return tuple(one for _, one in sorted(found, key=lambda pair: pair[0]))


def _name(series: Series) -> _Name:
    return series.source, series.metric.name, series.labels


def _path(name: _Name, told: Sequence[Alias]) -> list[tuple[Alias, _Name]]:
    """Return what a series was called one after the other since, and what says so."""
    path: list[tuple[Alias, _Name]] = []
    seen = {name}
    while True:
        step = next(((one, later) for one in told if (later := one.renamed(name)) not in seen), None)
        if step is None:
            return path
        path.append(step)
        name = step[1]
        seen.add(name)


def _misfit(old: Metric, new: Metric, *, renamed: bool) -> str:
    """Return why one metric's readings cannot go on as the other's, or ``""``; a renamed one is asked otherwise."""
    if not renamed:
        return "" if old.definition == new.definition else "they are defined differently, not only named"
    names = ("shape", "unit", "step", "bounds", "threshold")
    wrong = [name for name in names if getattr(old, name) != getattr(new, name)]
    return f"they differ in {' and '.join(wrong)}" if wrong else ""


# ---------------------------------------------------------------------------------------------------------------------
# Series
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Derivation:
    rule: Rule
    parts: tuple[tuple[Series, ...], ...]


class Holdings:
    """The series of a store under given settings; what the store holds of which series is looked up once."""

    def __init__(self, store: Store, settings: Settings, told: Sequence[Alias] | None = None) -> None:
        """``told`` are the renames to go by instead of those that are kept in the store."""
        self._store = store
        self._settings = settings
        self._told = told
        self._problems: dict[str, None] = {}

    # -- which --------------------------------------------------------------------------------------------------------

    @cached_property
    def _stored(self) -> list[Series]:
        return self._store.series()

    @cached_property
    def joins(self) -> tuple[Join, ...]:
        """What each alias joins, the latest name's neighbour first, and what it cannot."""
        return joins_of(self._stored, aliases(self._store) if self._told is None else self._told)

    @cached_property
    def _before(self) -> Mapping[Series, tuple[Join, ...]]:
        found: dict[Series, tuple[Join, ...]] = {}
        for one in self.joins:
            if not one.problem:
                found[one.new] = (*found.get(one.new, ()), one)
        return found

    @cached_property
    def _named(self) -> list[Series]:
        """The stored series by their present names."""
        gone = {one.old for one in self.joins if not one.problem}
        return [one for one in self._stored if one not in gone]

    @cached_property
    def _derived(self) -> Mapping[Series, tuple[Subject, _Derivation]]:
        found: dict[Series, tuple[Subject, _Derivation]] = {}
        owned: dict[Subject, list[Series]] = {one: [] for one in self._settings.subject_list}
        for series in self._named:
            subject = subject_of(series, self._settings.subject_list)
            if subject is not None:
                owned[subject].append(series)
        for subject, mine in owned.items():
            for rule in self._settings.rules.values():
                for series, derivation in self._made(subject, rule, mine):
                    found.setdefault(series, (subject, derivation))
        return found

    def _made(self, subject: Subject, rule: Rule, owned: Sequence[Series]) -> Iterable[tuple[Series, _Derivation]]:
        groups = [self._groups(rule, index, owned) for index in range(len(rule.parts))]
        common = set(groups[0]).intersection(*groups[1:])
        for values in [one for one in groups[0] if one in common]:
            for chosen in product(*(one[values] for one in groups)):
                try:
                    parts = tuple(_fitting(rule, members) for members in chosen)
                    metric = rule.metric(*(members[0].metric for members in parts))
                except UnderivableError as e:
                    if rule.name in self._settings.derived:
                        said = f"{rule.name} of {subject.name}: {e.cause}" + (f"; {e.hint}" if e.hint else "")
                        self._problems[said] = None
                    continue
                labels = labels_of({**dict(_labels_of(subject)), **dict(zip(rule.by, values, strict=True))})
                yield Series(SOURCE, metric, labels), _Derivation(rule, parts)

    def _groups(
        self, rule: Rule, index: int, owned: Sequence[Series]
    ) -> dict[tuple[str, ...], list[tuple[Series, ...]]]:
        """Return the series of a part by the values of the rule's labels, those asked alike together."""
        part = rule.parts[index]
        mine = [one for one in owned if one.metric.name == part.metric and part.source in ("", one.source)]
        known = [one for one in self._settings.connectors if any(series.source == one for series in mine)]
        source = known[0] if known else mine[0].source if mine else ""
        found: dict[tuple[str, ...], dict[str, list[Series]]] = {}
        for one in mine:
            carried = dict(one.labels)
            if one.source == source and all(name in carried for name in rule.by):
                values = tuple(carried[name] for name in rule.by)
                found.setdefault(values, {}).setdefault(one.metric.question, []).append(one)
        return {values: [tuple(group) for group in asked.values()] for values, asked in found.items()}

    @property
    def told_joins(self) -> list[Join]:
        """Every join and what is not joined, each with the instant of the first reading under the new name."""
        seen = {(one.new, one.old): one for group in self._before.values() for one in self.since(group)}
        return [seen.get((one.new, one.old), one) for one in self.joins]

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a derived metric of the settings file could not be made of what is stored, one sentence each."""
        _ = self._derived
        return tuple(self._problems)

    def series(self, subjects: Iterable[Subject]) -> list[tuple[Subject, Series]]:
        """Return each series with the first of the subjects that owns it, the stored ones first."""
        wanted = tuple(subjects)
        stored = [(next((one for one in wanted if one.owns(series)), None), series) for series in self._named]
        derived = [(subject, series) for series, (subject, _) in self._derived.items() if subject in wanted]
        return [(subject, series) for subject, series in stored if subject is not None] + derived

    def find(self, source: str, metric: str, labels: Labels, definition: str) -> Series | None:
        """Return the series that is called so and is defined so, or None."""
        wanted = (source, metric, labels, definition)
        every = (*self._named, *self._derived)
        return next(
            (one for one in every if (one.source, one.metric.name, one.labels, one.metric.definition) == wanted), None
        )

    def made_of(self, series: Iterable[Series]) -> list[Series]:
        """Return the stored series that series are made of, each once: what has to be kept to read them again."""
        found: dict[Series, None] = {}
        for one in series:
            parts = self._derived[one][1].parts if one in self._derived else ((one,),)
            for named in (each for part in parts for each in part):
                found[named] = None
                found |= dict.fromkeys(join.old for join in self._before.get(named, ()))
        return list(found)

    def joined(self, series: Series) -> tuple[Join, ...]:
        """Return the joins that the readings of a series rest on, its own or its parts', since when is known."""
        parts = self._derived[series][1].parts if series in self._derived else ((series,),)
        return tuple(join for part in parts for one in part for join in self.since(self._before.get(one, ())))

    def since(self, joins: Sequence[Join]) -> list[Join]:
        """Return the joins of one series, the last first, with the instant of each and what of the old is left out."""
        found = []
        since, newer = NEVER, joins[0].new if joins else None
        for one in joins:
            assert newer is not None
            since = min(since, self._first(newer))
            (late,) = self._store.read([one.old], Window.of(since, NEVER))
            found.append(replace(one, since=None if since == NEVER else since, overlap=len(late)))
            newer = one.old
        return found

    # -- what they say ------------------------------------------------------------------------------------------------

    def held(
        self,
        series: Sequence[Series],
        window: Window,
        *,
        frozen: FrozenCopy | None = None,
        settled: Window = Window(),  # noqa: B008  frozen
    ) -> list[Held]:
        """
        Return what is held of each series inside a window and what is proven of it, in the order asked for.

        Args:
            series: Of those ``series`` gives.
            window: What is asked for.
            frozen: Where given, stored series come from this copy, with what was proven when it was frozen, unless the
                store has come to prove more of ``settled`` since: what filled a gap is not in the copy.
            settled: The part of the window that was to be frozen.
        """
        reach = window
        for one in series:
            if one in self._derived:
                reach = reach | self._derived[one][1].rule.reach(window, one.metric.step)
        stored = self.made_of(series)
        raw = dict(zip(stored, self._read(stored, reach, frozen, settled), strict=True))
        return [self._held(one, window, raw) for one in series]

    def covered(self, series: Sequence[Series], window: Window) -> list[Window]:
        """Return what is proven of each series inside a window; what is stored as it is need not be read for that."""
        made = [one for one in series if one in self._derived or one in self._before]
        plain = [one for one in series if one not in made]
        found = {one: proven & window for one, proven in zip(plain, self._store.coverages(plain), strict=True)}
        found |= {one: held.coverage for one, held in zip(made, self.held(made, window), strict=True)}
        return [found[one] for one in series]

    def _held(self, series: Series, window: Window, raw: Mapping[Series, Held]) -> Held:
        if series not in self._derived:
            held = self._joined(series, raw)
            return Held(held.readings.within(window), held.coverage & window)
        _, made = self._derived[series]
        reach = made.rule.reach(window, series.metric.step)
        named = [[self._joined(one, raw) for one in part] for part in made.parts]
        parts = [[Held(one.readings.within(reach), one.coverage & reach) for one in part] for part in named]
        return derive(made.rule, series, parts, window)

    def _joined(self, series: Series, raw: Mapping[Series, Held]) -> Held:
        """Return a series with what was read under its old names before its own first reading."""
        held, newer = raw[series], series
        since = NEVER
        for join in self._before.get(series, ()):
            older = raw[join.old]
            since = min(since, self._first(newer), _first_of(held.readings))
            earlier, later = Window.of(-NEVER, since), Window.of(since, NEVER)
            readings = _concatenated(series, older.readings.within(earlier), held.readings)
            held = Held(readings, (older.coverage & earlier) | (held.coverage & later))
            newer = join.old
        return held

    def _first(self, series: Series) -> int:
        """Return the instant of the first reading a series has in the store under its own name."""
        (extent,) = self._store.extent([series])
        if extent is None:
            return NEVER
        (readings,) = self._store.read([series], Window.of(extent[0], extent[0] + DAY))
        return _first_of(readings)

    def _read(
        self, series: Sequence[Series], window: Window, frozen: FrozenCopy | None, settled: Window
    ) -> list[Held]:
        proven = dict(zip(series, self._store.coverages(series), strict=True))
        held: dict[Series, Held] = {}
        if frozen is not None:
            copied = {_identity(one.series): one for one in frozen.readings}
            covered = {_identity(one): found for one, found in frozen.coverage.items()}
            for one in series:
                copy, then = copied.get(_identity(one)), covered.get(_identity(one), Window())
                if copy is not None and not (proven[one] - then) & settled:
                    held[one] = Held(replace(copy, series=one).within(window), then & window)
        rest = [one for one in series if one not in held]
        for one, readings in zip(rest, self._store.read(rest, window), strict=True):
            held[one] = Held(readings, proven[one] & window)
        return [held[one] for one in series]


def _identity(series: Series) -> tuple[str, str, Labels, str]:
    return (*_name(series), series.metric.definition)


def _labels_of(subject: Subject) -> Labels:
    """Return labels by which a subject owns a series that is made for it."""
    others = {
        "database": subject.database,
        "pagerduty_service": subject.service,
        "repository": subject.repositories[0] if subject.repositories else "",
    }
    return subject.labels or tuple((name, value) for name, value in others.items() if value)[:1]


def _fitting(rule: Rule, members: tuple[Series, ...]) -> tuple[Series, ...]:
    """
    Return the series of a part that the rule can be done on.

    Raises:
        UnderivableError: if they cannot be added up, or one lacks what the rule asks for.
    """
    metric = members[0].metric
    labels = {one.labels for one in members}
    if len(labels) > 1 and not summable(metric):
        raise UnderivableError(
            f"{len(labels)} series of {metric.name}, a level in {metric.unit}, cannot be added up",
            'name the labels that tell them apart, as in by = ["route"]',
        )
    if rule.bound is None:
        return members
    fit, refused = [], None
    for one in members:
        try:
            column_of(one.metric, rule.bound)
            fit.append(one)
        except UnderivableError as e:
            refused = e
    # Buckets that had other bounds once leave that time unknown; where silence is zero it would count as none.
    if refused is not None and (metric.silence is Silence.ZERO or {one.labels for one in fit} != labels):
        raise refused
    return tuple(fit)


def _first_of(readings: Readings) -> int:
    if not len(readings):
        return NEVER
    return int(readings.start.min() if isinstance(readings, Occurrences) else readings.at[0])


def _concatenated(series: Series, earlier: Readings, later: Readings) -> Readings:
    """Return the readings of two series of one shape, one after the other, as those of one series."""
    from harvester.store.codec import columns_of, has_log_buckets, merge, readings_of

    if isinstance(earlier, Occurrences) and isinstance(later, Occurrences):
        import numpy as np

        return Occurrences(
            series,
            (*earlier.id, *later.id),
            np.concatenate([earlier.revision, later.revision]),
            np.concatenate([earlier.start, later.start]),
            np.concatenate([earlier.end, later.end]),
            (*earlier.attributes, *later.attributes),
        )
    columns = [columns_of(one) for one in (earlier, later) if len(one)]
    if not columns:
        return later
    return readings_of(series, merge(columns, buckets=has_log_buckets(series)))

"""``diff``: before and after a change, with what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from harvester import figures
from harvester.cli import FINDINGS, INCONCLUSIVE, OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run
from harvester.errors import UsageError
from harvester.readings import DAY, Window

if TYPE_CHECKING:
    from harvester.candidates.model import Change
    from harvester.differ.result import Comparison
    from harvester.impact import Windows
    from harvester.store import Store


@verb(
    "diff", "harvest diff checkout-index\nharvest diff checkout-index --metric latency --explain\nharvest diff --json"
)
@click.argument("name", required=False)
@click.option("--metric", "metrics", multiple=True, help="Only this metric. May be given again.")
@click.option(
    "--days", type=click.IntRange(1, 28), help="Days on each side (default: whole days since it is live, at most 28)."
)
@click.option("--explain", is_flag=True, help="Show windows, coverage, p-values and every caveat.")
@as_json
def diff(run: Run, name: str | None, metrics: tuple[str, ...], days: int | None, explain: bool, as_json: bool) -> int:
    """
    Compare before and after a change.

    The figures are plain window summaries; verdict and interval come from a model of each series' own noise, drift and
    weekly cycle. Exit code 3 when something regressed, 4 when what was expected (or, where nothing was, everything) is
    unclear or refused.
    """
    from harvester.holdings import Holdings
    from harvester.impact import compare, windows_of

    with run.store() as store:
        change = _change(store, name)
        windows = windows_of(change, run.at)
        if days is not None:
            windows = _shortened(windows, days)
        _refuse_unknown(run, metrics)
        found = compare(store, run.configured, change, run.at, windows=windows, metrics=metrics)
        for problem in Holdings(store, run.configured).problems:
            run.say(f"not derived: {problem}")
    if as_json:
        run.json("diff", {"change": change.name, "comparisons": [one.as_json() for one in found]})
    else:
        _print(run, change, windows, found, explain)
    return exit_code(found)


def _change(store: Store, name: str | None) -> Change:
    from harvester.cli import git
    from harvester.impact import changes, find_change

    wanted = name or git.branch()
    if wanted is not None:
        return find_change(store, wanted)
    live = [one for one in changes(store) if one.shipped is not None]
    if len(live) == 1:
        return live[0]
    known = ", ".join(one.name for one in live[-8:])
    raise UsageError(
        "compare",
        "change",
        "it has no name",
        hint=f"harvest diff NAME; live are {known}" if live else "harvest baseline NAME, then harvest shipped NAME",
    )


def _shortened(windows: Windows, days: int) -> Windows:
    from harvester.impact import Windows as Made

    at = windows.after.start
    if days > windows.days:
        raise UsageError(
            "compare", f"{days} days", f"only {windows.days} whole days have passed", hint=f"--days {windows.days}"
        )
    return Made(Window.of(at - max(days, 2) * DAY, at), Window.of(at, at + days * DAY), days)


def _refuse_unknown(run: Run, metrics: tuple[str, ...]) -> None:
    import difflib

    from harvester.impact import metrics_of

    known = metrics_of(run.configured)
    for one in metrics:
        if one not in known:
            near = difflib.get_close_matches(one, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UsageError("find metric", one, "there is none of that name", hint=hint)


def exit_code(found: Sequence[Comparison]) -> int:
    """Return 3 if something regressed; 4 if what was expected, or else everything, has no answer; else 0."""
    from harvester.differ.result import Mode, Verdict

    if any(one.verdict is Verdict.REGRESSED for one in found):
        return FINDINGS
    open_ends = (Verdict.UNCLEAR, Verdict.REFUSED)
    expected = [one for one in found if one.mode is Mode.CONFIRMATORY]
    if expected:
        return INCONCLUSIVE if any(one.verdict in open_ends for one in expected) else OK
    return INCONCLUSIVE if all(one.verdict in open_ends for one in found) else OK


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------


def _print(run: Run, change: Change, windows: Windows, found: Sequence[Comparison], explain: bool) -> None:
    before, after = (figures.span(one.start, one.end) for one in (windows.before, windows.after))
    run.print(f"{change.name}, live since {figures.moment(windows.after.start)}")
    run.print(f"before: {before}; after: {after}{'; retrospective' if change.retrospective else ''}")
    if not found:
        run.print()
        run.print("nothing is stored of its subjects; harvest check tells why, harvest collect pulls")
        return
    from harvester.differ.result import CLAIMS, Mode, Verdict

    expected = [one for one in found if one.mode is Mode.CONFIRMATORY]
    others = [one for one in found if one.mode is not Mode.CONFIRMATORY]
    for title, group in (("expected beforehand", expected), ("found by looking" if expected else "", others)):
        if not group:
            continue
        run.print()
        if title:
            run.print(f"{title}:")
        for one in group:
            full = (
                explain or bool(title and group is expected) or one.verdict in CLAIMS or one.verdict is Verdict.REFUSED
            )
            print_comparison(run, one, full=full, explain=explain)


LONGEST_LABELS = 44


def name_of(one: Comparison) -> str:
    """Return what a comparison is about: subject, metric, statistic, and the labels that tell it from its siblings."""
    text = f"{one.subject} {one.metric} {one.statistic}".strip()
    rest = [(name, value) for name, value in one.labels if value != one.subject]
    inside = ", ".join(f'{name}="{value}"' for name, value in rest)
    if len(inside) > LONGEST_LABELS:  # the wordiest label says most to a person; --json and --explain have them all
        name, value = max(rest, key=lambda pair: len(pair[1]))
        room = LONGEST_LABELS - len(name)
        inside = f'{name}="{value if len(value) <= room else value[:room] + "..."}"'
    return f"{text} {{{inside}}}" if inside else text


_DOUBT = " " * 13


def print_comparison(run: Run, one: Comparison, *, full: bool, explain: bool = False) -> None:
    """Print a comparison: the verdict with the figures, then the doubts."""
    from harvester.differ.result import Verdict

    unit = figures.printed_unit(one.unit, one.shape, one.statistic)
    left, right = figures.pair(one.before.value, one.after.value, unit)
    head = f"  {one.verdict:<10} {name_of(one)}"
    if one.verdict is Verdict.REFUSED:
        run.wrapped(head, "", _DOUBT)
        for caveat in one.caveats if explain else one.caveats[:1]:
            run.wrapped(caveat.text, _DOUBT)
        return
    run.wrapped(f"{head}: {left} -> {right}{_sized(one)}", "", _DOUBT)
    if one.under is not None and one.statistic not in ("count", "mean", "total"):
        bound = figures.value(one.under.bound, one.unit)
        shares = " -> ".join(figures.pair(one.under.before, one.under.after, figures.PROPORTION))
        run.wrapped(f"at or under {bound}: {shares}", _DOUBT)
    if one.verdict is Verdict.UNCLEAR and one.visible_percent is not None:
        more = f"; {one.days_needed} days would settle it" if one.days_needed else ""
        run.wrapped(f"could only have seen a change larger than +-{one.visible_percent:.0f} %{more}", _DOUBT)
    for caveat in one.caveats if full else ():
        run.wrapped(caveat.text, _DOUBT)
    if explain:
        if one.labels:
            run.wrapped("labels: " + ", ".join(f'{name}="{value}"' for name, value in one.labels), _DOUBT)
        for name, side in (("before", one.before), ("after", one.after)):
            run.wrapped(f"{name}: n = {side.n:,.0f}, {100 * side.coverage:.1f} % proven complete", _DOUBT)
        effect = one.effect
        if effect is not None and effect.estimate is not None:
            estimate = figures.value(effect.estimate, unit) if effect.scale != "ratio" else f"x {effect.estimate:.3f}"
            run.wrapped(f"model: {estimate}, {figures.p(one.p)}, {one.mode}", _DOUBT)


def _sized(one: Comparison) -> str:
    effect = one.effect
    if effect is None:
        return ""
    unit = figures.printed_unit(one.unit, one.shape, one.statistic)
    size = f" ({figures.percent(effect.percent)})" if effect.percent is not None else ""
    if effect.low is None and effect.high is None:
        return size
    return f"{size}, {figures.interval(effect.low, effect.high, effect.scale, unit)}"


COMMANDS = {"diff": diff}

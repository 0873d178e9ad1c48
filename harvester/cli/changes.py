"""``baseline``, ``shipped`` and ``changes``: what the engineer does, and the state frozen before it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from harvester import figures
from harvester.cli import OK
from harvester.cli.options import INSTANT, as_json, common, verb
from harvester.cli.run import Run
from harvester.derive import SOURCE as DERIVED
from harvester.errors import UsageError
from harvester.readings import DAY, Series, Subject, Window, to_datetime, to_milliseconds

if TYPE_CHECKING:
    from harvester.candidates.model import Change, Expectation
    from harvester.store import Store

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,99}")


# ---------------------------------------------------------------------------------------------------------------------
# baseline
# ---------------------------------------------------------------------------------------------------------------------


@verb(
    "baseline",
    'harvest baseline checkout-index --expect "checkout latency p95 lower by 20%"\n'
    "harvest baseline                       # in a git checkout: named after the branch\n"
    "harvest baseline old-change --at 2026-11-02T14:00Z   # after the fact",
)
@click.argument("name", required=False)
@click.option(
    "--expect",
    "expectations",
    multiple=True,
    metavar="TEXT",
    help="Expected effect: SUBJECT METRIC [STATISTIC] lower|higher|held [by N%]. May be given again.",
)
@click.option(
    "--subject", "subjects", multiple=True, help="What the change touches (default: what is expected of, else all)."
)
@click.option(
    "--link", "links", multiple=True, metavar="URL", help="Pull request, commit or deploy. May be given again."
)
@click.option("--title", default="", help="What you do, in your words: the sentence's action.")
@click.option("--because", default="", help="Why, in your words.")
@click.option("--at", type=INSTANT, help="End of the window, if it is not now; the baseline is then retrospective.")
@click.option("--wait", is_flag=True, help="Collect before answering, instead of in the background.")
@click.option("--dry-run", is_flag=True, help="Show what it would be; keep nothing.")
@as_json
def baseline(
    run: Run,
    name: str | None,
    expectations: tuple[str, ...],
    subjects: tuple[str, ...],
    links: tuple[str, ...],
    title: str,
    because: str,
    at: datetime | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """
    Freeze the state before a change.

    Answers at once and pulls everything the sources still hold in the background; the 28 days before now are frozen
    when that is done. Expected effects named here, before the change, are tested first and claimed first.
    """
    from harvester.cli import git
    from harvester.impact import save_change

    change = _new_change(run, name or git.branch(), expectations, subjects, links or _commit(git.commit_link()), at)
    change = replace(change, title=title, because=because)
    with run.store() as store:
        _refuse_twice(store, change.name)
        if not dry_run:
            save_change(store, change)
            if wait:
                _pull(run, store)
            else:
                _pull_in_background(run)
        data = _baseline_data(run, store, change, thorough=wait or dry_run)
    if as_json:
        run.json("baseline", data)
        return OK
    _print_baseline(run, change, data, dry_run=dry_run, waited=wait)
    return OK


def _commit(link: str | None) -> tuple[str, ...]:
    return (link,) if link else ()


def _new_change(
    run: Run,
    name: str | None,
    expectations: tuple[str, ...],
    subjects: tuple[str, ...],
    links: tuple[str, ...],
    at: datetime | None,
) -> Change:
    from harvester.candidates.model import Change
    from harvester.impact import BASELINE, parse_expectation

    if name is None:
        raise UsageError(
            "register",
            "change",
            "it has no name",
            hint="harvest baseline NAME; inside a git checkout the branch names it",
        )
    if not NAME.fullmatch(name):
        raise UsageError("register change", repr(name), "is no name", hint="letters, digits, and _ . / - inside")
    settings = run.configured
    for one in subjects:
        if one not in settings.subjects:
            known = ", ".join(settings.subjects) or "none"
            raise UsageError("find subject", one, "there is none of that name", hint=f"configured are {known}")
    expect = tuple(parse_expectation(text, settings, run.at) for text in expectations)
    end = run.at if at is None else to_milliseconds(at)
    if end > run.at:
        raise UsageError("freeze", name, "the window would end in the future", hint="--at takes a time that has passed")
    touched = subjects or tuple(dict.fromkeys(one.subject for one in expect))
    return Change(
        name=name,
        subjects=touched,
        registered=run.at,
        baseline_start=end - BASELINE,
        baseline_end=end,
        expect=expect,
        links=links,
        retrospective=at is not None,
    )


def _refuse_twice(store: Store, name: str) -> None:
    if store.get("change", name) is not None:
        raise UsageError(
            "register change",
            name,
            "there is one of that name already",
            hint=f"harvest changes edit {name} changes it, harvest changes remove {name} forgets it",
        )


def _pull(run: Run, store: Store) -> None:
    from harvester.cli.collect import pull

    for _, record in pull(run, store, run.configured.connectors.values()):
        if record is not None and record.error is not None:
            run.say(f"harvest: {record.error}")


def _pull_in_background(run: Run) -> None:
    """Start a collection that outlives this command; a source that is being collected already is left alone."""
    words = [sys.executable, "-m", "harvester.cli", "collect", "--quiet"]
    if run.settings.path is not None:
        words += ["--config", str(run.settings.path)]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


MOST_AT_ONCE = 3
"""For more series than this the power is worked out with ``--wait`` only: the answer must come at once."""


def _baseline_data(run: Run, store: Store, change: Change, *, thorough: bool) -> dict[str, Any]:
    from harvester.holdings import Holdings
    from harvester.impact import baseline_power, subjects_of

    window = Window.of(change.baseline_start, change.baseline_end)
    holdings = Holdings(store, run.settings)
    owned = holdings.series(subjects_of(change, run.settings))
    proven = holdings.covered([one for _, one in owned], window)
    covered = [one.share_of(window) for one in proven]
    asked = {(one.subject, one.metric) for one in change.expect}
    few = sum((subject.name, one.metric.name) in asked or not asked for subject, one in owned) <= MOST_AT_ONCE
    powers = baseline_power(store, run.settings, change) if owned and (few or thorough) else []
    proved = [
        {
            "subject": subject.name,
            "metric": one.metric.name,
            "labels": dict(one.labels),
            "statistic": statistic,
            "unit": figures.printed_unit(one.metric.unit, str(one.metric.shape), statistic),
            "value": value,
            "visible": [{"days": seen.days, "percent": seen.percent} for seen in seen_in],
        }
        for subject, one, statistic, value, seen_in in powers
    ]
    return {
        "change": change_data(change),
        "series": len(owned),
        "coverage": sum(covered) / len(covered) if covered else 0.0,
        "uncovered": _uncovered(store, change, window, owned, proven),
        "proved": proved,
    }


_ENOUGH = 0.99
_MOST_GAPS = 3
_KEEPS = re.compile(r"the server keeps ([^:]+):")
"""The note by which a collection says that a source reaches less far than was asked for."""


def _uncovered(
    store: Store,
    change: Change,
    window: Window,
    owned: Sequence[tuple[Subject, Series]],
    proven: Sequence[Window],
) -> list[dict[str, Any]]:
    """Return what is missing of the window: of each source at all, of what is expected where that lacks more."""
    whole: dict[tuple[str, str], Window] = {}
    for (subject, series), covered in zip(owned, proven, strict=True):
        if series.source != DERIVED:
            whole[series.source, ""] = whole.get((series.source, ""), Window()) | covered
        if any((one.subject, one.metric) == (subject.name, series.metric.name) for one in change.expect):
            key = series.source, f"{subject.name} {series.metric.name}"
            whole[key] = whole.get(key, Window()) | covered
    found = []
    for (source, of), covered in whole.items():
        if covered.share_of(window) >= _ENOUGH or (of and covered == whole.get((source, ""))):
            continue
        kept = None if of else next((said for _, note in store.notes(source) if (said := _KEEPS.search(note))), None)
        gaps = (Window.of(covered.start, window.end) - covered).spans if covered else window.spans
        found.append(
            {
                "source": source,
                "of": of or None,
                "since": to_datetime(covered.start).isoformat() if covered else None,
                "days_covered": covered.milliseconds / DAY,
                "days": window.milliseconds / DAY,
                "gaps": [{"start": to_datetime(a).isoformat(), "end": to_datetime(b).isoformat()} for a, b in gaps],
                "text": _uncovered_text(of or source, covered, window, kept[1] if kept else ""),
            }
        )
    return found


def _uncovered_text(name: str, covered: Window, window: Window, kept: str) -> str:
    from harvester.store.coverage import coverage_sentence

    if not covered:
        return f"{name}: nothing of the window is proven complete"
    late = covered.start >= window.start + DAY
    held = f" holds readings since {figures.date(covered.start)} only" if late else ""
    retention = f" (retention {kept})" if late and kept else ""
    share = f"{covered.milliseconds / DAY:.1f} of {window.milliseconds / DAY:.0f} days covered"
    gaps = coverage_sentence(covered, Window.of(covered.start, window.end), most=_MOST_GAPS).partition(", ")[2]
    return f"{name}{held}{retention}: {share}" + (f"; {gaps}" if gaps else "")


def change_data(change: Change) -> dict[str, Any]:
    """Return the published form of a change."""

    def time(at: int | None) -> str | None:
        return None if at is None else to_datetime(at).isoformat()

    return {
        "name": change.name,
        "subjects": list(change.subjects),
        "registered": time(change.registered),
        "baseline": {
            "start": time(change.baseline_start),
            "end": time(change.baseline_end),
            "frozen": list(change.frozen),
        },
        "shipped": time(change.shipped),
        "expect": [str(one) for one in change.expect],
        "links": list(change.links),
        "title": change.title,
        "because": change.because,
        "retrospective": change.retrospective,
    }


def _print_baseline(run: Run, change: Change, data: dict[str, Any], *, dry_run: bool, waited: bool) -> None:
    kind = "retrospective baseline" if change.retrospective else "baseline"
    would = "would freeze" if dry_run else "freezes"
    span = figures.span(change.baseline_start, change.baseline_end)
    run.print(f"{change.name}: {kind}, {would} {span} of {', '.join(change.subjects) or 'every subject'}")
    for one in change.expect:
        run.print(f"  expected: {one}")
    for link in change.links:
        run.print(f"  link: {link}")
    if data["series"]:
        run.print(
            f"  stored so far: {data['series']} series, {100 * data['coverage']:.0f} % of the window proven complete"
        )
    for one in data["uncovered"]:
        run.wrapped(one["text"], "  ", "    ")
    for one in data["proved"]:
        run.wrapped(f"{one['subject']} {one['metric']} {one['statistic']}: {_power(one)}", "  ", "    ")
    if dry_run:
        return
    if not waited:
        run.say("pulling what the sources still hold in the background; harvest status shows it, --wait waits for it")
    run.say(f"when it is live: harvest shipped {change.name}")


def _power(one: dict[str, Any]) -> str:
    value = figures.value(one["value"], one["unit"])
    visible = {seen["days"]: seen["percent"] for seen in one["visible"]}
    if 14 not in visible:
        return f"{value}; too little history yet to say what could be seen"
    if visible[14] > 1000:
        return f"{value}; so noisy that 14 more days would show next to nothing"
    return f"{value}; 14 days more will show a change of {visible[14]:.0f} % or larger"


# ---------------------------------------------------------------------------------------------------------------------
# shipped
# ---------------------------------------------------------------------------------------------------------------------


@verb(
    "shipped",
    "harvest shipped checkout-index\nharvest shipped checkout-index --at 2026-11-09T10:00Z\n"
    "harvest shipped checkout-index --undo",
)
@click.argument("name", required=False)
@click.option("--at", type=INSTANT, help="Live since (default: now).")
@click.option("--undo", is_flag=True, help="Take it back: the change is not live.")
@as_json
def shipped(run: Run, name: str | None, at: datetime | None, undo: bool, as_json: bool) -> int:
    """
    Say that a change is live.

    What came before that instant is the before side, what comes after it the after side of every comparison.
    """
    from harvester.cli import git
    from harvester.impact import find_change, save_change

    wanted = name or git.branch()
    if wanted is None:
        raise UsageError("ship", "change", "it has no name", hint="harvest shipped NAME; harvest changes lists them")
    with run.store() as store:
        change = find_change(store, wanted)
        live = run.at if at is None else to_milliseconds(at)
        _refuse_time(run, change, live, undo=undo, at=at)
        # A baseline that was registered after the change went live was not taken before it.
        late = not undo and live < change.registered
        change = replace(
            change,
            shipped=None if undo else live,
            retrospective=change.retrospective or late,
        )
        save_change(store, change)
    if as_json:
        run.json("shipped", change_data(change))
        return OK
    if undo:
        run.print(f"{change.name}: not live")
        return OK
    note = ", before it was registered: its effects are labelled retrospective" if late else ""
    run.print(f"{change.name}: live since {figures.moment(live)}{note}")
    first = figures.moment(max(run.at, live + DAY))
    run.say(f"harvest diff {change.name} answers from {first} on, firmly after 3, 7 and 14 days")
    return OK


def _refuse_time(run: Run, change: Change, live: int, *, undo: bool, at: datetime | None) -> None:
    if undo:
        if change.shipped is None:
            raise UsageError("undo", change.name, "it is not live", hint=f"harvest shipped {change.name}")
        return
    if live > run.at:
        raise UsageError("ship", change.name, "that time lies in the future", hint="say it when it is live")
    if change.shipped is not None and at is None:
        raise UsageError(
            "ship",
            change.name,
            f"it is live since {figures.moment(change.shipped)} already",
            hint="--at TIME corrects it, --undo takes it back",
        )
    if live < change.baseline_start + 2 * DAY:
        raise UsageError(
            "ship",
            change.name,
            "that is before its baseline, so nothing would be left to compare with",
            hint=f"harvest changes remove {change.name}, then harvest baseline {change.name} --at TIME",
        )


# ---------------------------------------------------------------------------------------------------------------------
# changes
# ---------------------------------------------------------------------------------------------------------------------


@click.group("changes", invoke_without_command=True)
@common
@as_json
@click.pass_context
def changes(ctx: click.Context, as_json: bool) -> None:
    """List, edit and remove changes; without a word: list."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)


@verb("list", "harvest changes list --json")
@as_json
def show(run: Run, as_json: bool) -> int:
    """List the changes, the oldest first."""
    from harvester.impact import changes as all_changes

    with run.store() as store:
        found = all_changes(store)
    if as_json:
        run.json("changes", {"changes": [change_data(one) for one in found]})
        return OK
    if not found:
        run.print('no changes yet; before the next one: harvest baseline NAME --expect "SUBJECT METRIC lower"')
        return OK
    rows = [
        [
            one.name,
            ", ".join(one.subjects) or "all",
            figures.date(one.baseline_end),
            figures.moment(one.shipped) if one.shipped else "not live",
            "; ".join(map(str, one.expect)) or "-",
        ]
        for one in found
    ]
    run.table(["change", "subjects", "baseline to", "live since", "expected"], rows)
    return OK


@verb("edit", 'harvest changes edit checkout-index --title "added an index on orders" --because "checkout timed out"')
@click.argument("name")
@click.option("--title", help="What you did, in your words.")
@click.option("--because", help="Why, in your words.")
@click.option("--link", "links", multiple=True, metavar="URL", help="Add a pull request, commit or deploy.")
@click.option(
    "--expect", "expectations", multiple=True, metavar="TEXT", help="Add an expected effect; only before it is live."
)
@as_json
def edit(
    run: Run,
    name: str,
    title: str | None,
    because: str | None,
    links: tuple[str, ...],
    expectations: tuple[str, ...],
    as_json: bool,
) -> int:
    """Change the words, links and expectations of a change."""
    from harvester.impact import find_change, parse_expectation, save_change

    if title is None and because is None and not links and not expectations:
        raise UsageError("edit", name, "nothing to change was given", hint="harvest changes edit --help")
    with run.store() as store:
        change = find_change(store, name)
        expect: tuple[Expectation, ...] = tuple(
            parse_expectation(text, run.configured, run.at) for text in expectations
        )
        if expect and change.shipped is not None and change.shipped <= run.at:
            raise UsageError(
                "expect of",
                name,
                "it is live already, and what is named afterwards was not expected",
                hint="harvest diff shows every metric as exploratory",
            )
        change = replace(
            change,
            title=change.title if title is None else title,
            because=change.because if because is None else because,
            links=tuple(dict.fromkeys([*change.links, *links])),
            expect=tuple(dict.fromkeys([*change.expect, *expect])),
        )
        save_change(store, change)
    if as_json:
        run.json("changes", {"changes": [change_data(change)]})
    else:
        run.print(f"{change.name}: changed")
    return OK


@verb("remove", "harvest changes remove checkout-index")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(run: Run, name: str, yes: bool) -> int:
    """Forget a change and its candidates; frozen copies stay. One with an accepted candidate is not forgotten."""
    from harvester.candidates.model import Status
    from harvester.cli.run import stdin_is_terminal
    from harvester.impact import candidates, find_change

    with run.store() as store:
        change = find_change(store, name)
        mine = [one for one in candidates(store) if one.change == change.name]
        accepted = [one.id for one in mine if one.status is Status.ACCEPTED]
        if accepted:
            raise UsageError(
                "remove", change.name, f"accepted candidates speak of it: {', '.join(accepted)}",
                hint=f"harvest candidates undo {accepted[0]} takes that back",
            )
        if not yes and stdin_is_terminal():
            click.confirm(f"forget {change.name}?", abort=True, err=True)
        for one in mine:
            store.delete("candidate", one.id)
        store.delete("change", change.name)
    run.print(f"{change.name}: forgotten; harvest baseline registers it again")
    return OK


for _one in (show, edit, remove):
    changes.add_command(_one)

COMMANDS = {"baseline": baseline, "shipped": shipped, "changes": changes}

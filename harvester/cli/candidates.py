"""``candidates``: what is worth telling, and the decisions about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import OK
from harvester.cli.options import as_json, common, verb
from harvester.cli.run import Run
from harvester.errors import UsageError

if TYPE_CHECKING:
    from harvester.candidates.model import Candidate, Status
    from harvester.store import Store

FORMATS = ("resume", "review", "self-assessment", "case-study", "markdown", "json", "csv")


@click.group("candidates", invoke_without_command=True)
@common
@click.option("--change", "change", help="Only of this change.")
@click.option("--all", "everything", is_flag=True, help="Dismissed ones too.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Print the sentences in this form.")
@as_json
@click.pass_context
def candidates(ctx: click.Context, change: str | None, everything: bool, form: str | None, as_json: bool) -> None:
    """
    Show and decide what is worth telling; without a word: list.

    A candidate is a comparison with a sentence, its interval, its doubts and its evidence. Listing looks again at what
    the store holds now.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, change=change, everything=everything, form=form, as_json=as_json)


@verb("list", "harvest candidates\nharvest candidates list --change checkout-index --format resume")
@click.option("--change", "change", help="Only of this change.")
@click.option("--all", "everything", is_flag=True, help="Dismissed ones too.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Print the sentences in this form.")
@as_json
def show(run: Run, change: str | None, everything: bool, form: str | None, as_json: bool) -> int:
    """List candidates, the strongest first."""
    from harvester.candidates.model import Status
    from harvester.candidates.word import render
    from harvester.impact import candidates as kept
    from harvester.impact import find_change, refresh

    with run.store() as store:
        if change is not None:
            find_change(store, change)
        refresh(store, run.settings, run.at)
        found = [
            one
            for one in kept(store)
            if (everything or one.status is not Status.DISMISSED) and change in (None, one.change)
        ]
        by_name = {one.change: find_change(store, one.change) for one in found}
    if as_json:
        run.json("candidates", {"candidates": [one.as_json() for one in found]})
    elif form is not None:
        print(render([(one, by_name[one.change]) for one in found], form), file=run.out)
    else:
        _print(run, found)
    return OK


@verb("show", "harvest candidates show 3f2a")
@click.argument("id")
@as_json
def detail(run: Run, id: str, as_json: bool) -> int:  # noqa: A002  what it is called on the command line
    """Show one candidate with its support, contradictions, causes and every doubt."""
    with run.store() as store:
        one = find(store, id)
    if as_json:
        run.json("candidates", {"candidates": [one.as_json()]})
    else:
        _print_whole(run, one)
    return OK


@verb("accept", "harvest candidates accept 3f2a")
@click.argument("id")
@as_json
def accept(run: Run, id: str, as_json: bool) -> int:  # noqa: A002
    """Accept a candidate: it is yours, and is measured again later."""
    from harvester.candidates.model import Status

    return _decide(run, id, Status.ACCEPTED, "", as_json)


@verb("dismiss", 'harvest candidates dismiss 3f2a --why "the traffic moved"')
@click.argument("id")
@click.option("--why", default="", help="Why it is not worth telling.")
@as_json
def dismiss(run: Run, id: str, why: str, as_json: bool) -> int:  # noqa: A002
    """Dismiss a candidate: it does not come back."""
    from harvester.candidates.model import Status

    return _decide(run, id, Status.DISMISSED, why, as_json)


@verb("undo", "harvest candidates undo 3f2a")
@click.argument("id")
@as_json
def undo(run: Run, id: str, as_json: bool) -> int:  # noqa: A002
    """Take a decision back: the candidate is proposed again."""
    from harvester.candidates.model import Status

    return _decide(run, id, Status.PROPOSED, "", as_json)


@verb("edit", 'harvest candidates edit 3f2a --sentence "Cut p95 of checkout from 480 ms to 140 ms by an index"')
@click.argument("id")
@click.option("--sentence", required=True, help="In your words; every figure in it must follow from the evidence.")
@as_json
def edit(run: Run, id: str, sentence: str, as_json: bool) -> int:  # noqa: A002
    """Put a candidate into your own words; a figure that the evidence does not give is refused."""
    from harvester.candidates.word import edit as reword
    from harvester.impact import find_change

    with run.store() as store:
        one = find(store, id)
        one = reword(one, find_change(store, one.change), sentence)
        store.put("candidate", one.id, one.as_json())
    if as_json:
        run.json("candidates", {"candidates": [one.as_json()]})
    else:
        run.wrapped(f"{one.id}: {one.sentence}", "", "          ")
    return OK


def _decide(run: Run, id: str, status: Status, reason: str, as_json: bool) -> int:  # noqa: A002
    with run.store() as store:
        one = replace(find(store, id), status=status, reason=reason)
        store.put("candidate", one.id, one.as_json())
    if as_json:
        run.json("candidates", {"candidates": [one.as_json()]})
    else:
        run.print(f"{one.id}: {status}")
        if status != "proposed":
            run.say(f"harvest candidates undo {one.id} takes it back")
    return OK


def find(store: Store, text: str) -> Candidate:
    """
    Return the candidate whose id begins with the text.

    Raises:
        UsageError: if there is none, or more than one.
    """
    from harvester.impact import candidates as kept

    found = kept(store)
    matching = [one for one in found if one.id == text] or [one for one in found if one.id.startswith(text)]
    if len(matching) == 1:
        return matching[0]
    cause = "there is none whose id begins so" if not matching else f"{len(matching)} ids begin so"
    known = ", ".join(one.id for one in (matching or found)[:6])
    raise UsageError(
        "find candidate",
        text,
        cause,
        hint=f"harvest candidates lists them: {known}"
        if known
        else "there are none yet; harvest shipped NAME comes first",
    )


def _print(run: Run, found: Sequence[Candidate]) -> None:
    if not found:
        run.print("no candidates yet: nothing that is live differs from before by more than its own noise")
        return
    for one in found:
        run.print(f"{one.id}  {one.status}, {one.grade}")
        run.wrapped(one.sentence, "    ")
        for caveat in one.caveats[:1]:
            run.wrapped(f"doubt: {caveat.text}", "    ", "           ")
        for cause in one.causes[:1]:
            run.wrapped(f"also near: {cause.text}", "    ", "               ")
        run.print()
    run.say("harvest candidates show ID has everything; accept ID or dismiss ID decides")


def _print_whole(run: Run, one: Candidate) -> None:
    from harvester.cli.diff import print_comparison

    run.print(f"{one.id}  {one.status}, {one.grade}; change {one.change}")
    run.wrapped(one.sentence, "  ")
    groups: Sequence[tuple[str, Sequence[Any]]] = (
        ("headline", [one.headline]),
        ("support", one.support),
        ("contradictions", one.contradictions),
    )
    for title, comparisons in groups:
        if comparisons:
            run.print(f"\n{title}:")
            for comparison in comparisons:
                print_comparison(run, comparison, full=True, explain=True)
    if one.causes:
        run.print("\nwhat else happened near it:")
        for cause in one.causes:
            run.wrapped(cause.text, "  ")
    if one.caveats:
        run.print("\ndoubts:")
        for caveat in one.caveats:
            run.wrapped(caveat.text, "  - ", "    ")


for _one in (show, detail, accept, dismiss, undo, edit):
    candidates.add_command(_one)

COMMANDS = {"candidates": candidates}

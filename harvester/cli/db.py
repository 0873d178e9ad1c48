"""``db``: look after the store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harvester import figures
from harvester.cli import FINDINGS, INCONCLUSIVE, OK
from harvester.cli.options import as_json, common, verb
from harvester.cli.run import Run, stdin_is_terminal
from harvester.errors import UsageError
from harvester.readings import SECOND, to_datetime

if TYPE_CHECKING:
    from harvester.store import Damage


@click.group("db")
@common
def db() -> None:
    """Look after the store."""


@verb("info", "harvest db info --json")
@as_json
def info(run: Run, as_json: bool) -> int:
    """Tell where the store is, how large, and what it holds."""
    with run.store(create=False) as store:
        found = store.info()
    if as_json:
        run.json("db-info", found)
        return OK
    for name, value in found.items():
        text = figures.value(value, "bytes") if name == "bytes" else f"{value:,}" if isinstance(value, int) else value
        run.print(f"{name:<12} {text}")
    return OK


@verb("check", "harvest db check")
@as_json
def check(run: Run, as_json: bool) -> int:
    """Read every block, pending row and frozen copy; exit code 3 when something is damaged."""
    with run.store(create=False) as store:
        problems = store.check()
    if as_json:
        run.json("db-check", {"problems": problems})
        return FINDINGS if problems else OK
    for one in problems:
        run.wrapped(f"!!  {one}", "", "    ")
    run.print("all is well" if not problems else f"{len(problems)} findings; harvest db repair drops what is damaged")
    return FINDINGS if problems else OK


@verb("repair", "harvest db repair --dry-run\nharvest db repair\nharvest db repair --salvage")
@click.option("--dry-run", is_flag=True, help="Tell what would be dropped; change nothing.")
@click.option("--salvage", is_flag=True, help="Build the SQLite file anew from what can be read; the old one is kept.")
@as_json
def repair(run: Run, dry_run: bool, salvage: bool, as_json: bool) -> int:
    """
    Drop what is damaged, and what it proved, so that it can be collected again.

    A file that SQLite itself cannot read needs --salvage, with no daemon at it.
    """
    if dry_run and salvage:
        raise UsageError("repair", "the store", "--dry-run and --salvage exclude each other")
    again: list[str] = []
    if salvage:
        lost, text = _salvage(run)
    else:
        with run.store(create=False) as store:
            found = store.damaged() if dry_run else store.repair()
        lost, again = [one.text for one in found], _commands(found)
        text = f"{len(lost)} {'would be dropped' if dry_run else 'dropped'}"
    if as_json:
        run.json("db-repair", {"lost": lost, "collect": again})
        return _repaired(lost, dry_run=dry_run)
    for one in lost:
        run.wrapped(f"!!  {one}", "", "    ")
    run.print(text if lost or salvage else "nothing is damaged")
    for one in again:
        run.print(f"{one}   # brings it back where the source still holds it")
    return _repaired(lost, dry_run=dry_run)


def _repaired(lost: Sequence[str], *, dry_run: bool) -> int:
    return OK if not lost else FINDINGS if dry_run else INCONCLUSIVE


def _commands(found: Sequence[Damage]) -> list[str]:
    """Return the commands that collect again what was damaged, one a source."""
    since: dict[str, int] = {}
    for one in found:
        for series in one.series:
            since[series.source] = min(one.window.start, since.get(series.source, one.window.start))
    return [f"harvest collect {source} --since {to_datetime(at):%Y-%m-%dT%H:%MZ}" for source, at in since.items()]


def _salvage(run: Run) -> tuple[list[str], str]:
    from harvester.store.copying import salvage
    from harvester.store.engine import Database

    path = Database(run.settings.store.url, create=False).path
    if path is None:
        raise UsageError("salvage", "the store", "only a SQLite file can be salvaged", hint="restore a backup")
    done = salvage(path)
    return list(done.lost), f"{done.rows:,} rows saved; the damaged file is kept as {done.kept}"


@verb("backup", "harvest db backup harvester-2026-11.db")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(run: Run, file: Path) -> int:
    """Write a copy of the store, as of now, into a file that is itself a store."""
    from harvester.store.copying import backup as write

    with run.store(create=False) as store:
        write(store, file)
    run.print(f"{file}: {figures.value(file.stat().st_size, 'bytes')}")
    return OK


@verb("restore", "harvest db restore harvester-2026-11.db")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(run: Run, file: Path, yes: bool) -> int:
    """Replace all that the store holds by what a backup holds."""
    from harvester.store.copying import restore as read

    if not yes and stdin_is_terminal():
        click.confirm(f"replace all that the store holds by {file}?", abort=True, err=True)
    with run.store() as store:
        read(file, store)
    run.print(f"restored from {file}")
    return OK


@verb("move", "harvest db move postgresql+psycopg://harvester@db.internal/harvester")
@click.argument("url")
def move(run: Run, url: str) -> int:
    """Copy everything into an empty store: from SQLite to PostgreSQL, or back; this one stays as it is."""
    from harvester.store import Store
    from harvester.store.copying import move as copy

    with run.store(create=False) as source, Store.open(url, now=run.now) as target:
        copy(source, target)
        said = target.info()["target"]
    run.print(f"copied to {said}; now set [store] url")
    return OK


@verb("prune", "harvest db prune --dry-run\nharvest db prune --keep 400d")
@click.option("--keep", help="How long readings are kept (default: keep of [store]).")
@click.option("--dry-run", is_flag=True, help="Tell the first day that would stay; change nothing.")
@as_json
def prune(run: Run, keep: str | None, dry_run: bool, as_json: bool) -> int:
    """
    Drop old readings; a summary of each day, events and frozen evidence stay for ever.

    The daemon does it once a day.
    """
    from harvester.store.retention import prune as drop

    length = run.settings.store.keep if keep is None else _duration(keep)
    before = run.at - round(length.total_seconds() * SECOND)
    data: dict[str, Any] = {"before": figures.date(before), "blocks": 0, "collections": 0, "notes": 0}
    if not dry_run:
        with run.store(create=False) as store:
            done = drop(store, before)
        data |= {"blocks": done.blocks, "collections": done.collections, "notes": done.notes}
    if as_json:
        run.json("db-prune", data)
    elif dry_run:
        run.print(f"readings before {data['before']} would be dropped")
    else:
        run.print(f"readings before {data['before']} dropped: {data['blocks']:,} days of series")
    return OK


def _duration(text: str) -> timedelta:
    from harvester.connector import parse_duration

    try:
        return parse_duration(text)
    except ValueError as e:
        raise UsageError("read", "--keep", str(e), hint="--keep 400d") from None


for _one in (info, check, repair, backup, restore, move, prune):
    db.add_command(_one)

COMMANDS = {"db": db}

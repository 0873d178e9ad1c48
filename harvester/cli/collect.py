"""``collect``: pull readings now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import FAILED, INCONCLUSIVE, OK
from harvester.cli.options import INSTANT, as_json, verb
from harvester.cli.run import Run
from harvester.cli.setup import chosen
from harvester.readings import to_datetime, to_milliseconds

if TYPE_CHECKING:
    from harvester.collect import Progress as Seen
    from harvester.connector import Connector
    from harvester.store import Collection, Store


@verb("collect", "harvest collect\nharvest collect prom --since 2026-11-01T00:00Z\nharvest collect --dry-run")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--since", type=INSTANT, help="Ask again from this time on (ISO 8601 with offset, or so long ago: 30d).")
@click.option("--dry-run", is_flag=True, help="Tell what would be asked; contact nothing, store nothing.")
@as_json
def collect(run: Run, sources: tuple[str, ...], since: datetime | None, dry_run: bool, as_json: bool) -> int:
    """
    Pull readings from the sources now.

    The first collection takes everything a source still holds, the newest first; later ones only what is new, and a
    little of the past again for late data. It may be interrupted at any time and goes on where it was.
    """
    connectors = chosen(run, sources)
    start = to_milliseconds(since) if since is not None else None
    if dry_run:
        return _dry_run(run, connectors, start, as_json)
    done: list[Collection] = []
    busy: list[str] = []
    with run.store() as store:
        for one, record in pull(run, store, connectors, start):
            if record is None:
                busy.append(one.source)
            else:
                done.append(record)
            if not as_json:
                _tell(run, one, record)
    if as_json:
        run.json("collect", {"collections": [as_data(one) for one in done], "busy": busy})
    failed = [one for one in done if one.error is not None]
    return OK if not failed else FAILED if len(failed) == len(done) else INCONCLUSIVE


def as_data(record: Collection) -> dict[str, Any]:
    """Return the published form of the record of a collection."""
    return {
        "source": record.source,
        "started": to_datetime(record.started).isoformat(),
        "finished": to_datetime(record.finished).isoformat(),
        "start": to_datetime(record.window.start).isoformat(),
        "end": to_datetime(record.window.end).isoformat(),
        "covered": record.covered.share_of(record.window),
        "readings": record.readings,
        "error": record.error,
        "notes": list(record.notes),
        "digest": record.digest,
    }


def _tell(run: Run, connector: Connector, record: Collection | None) -> None:
    if record is None:
        run.print(f"{connector.source}: another process is collecting it; nothing to do")
        return
    span = f"{to_datetime(record.window.start):%Y-%m-%d %H:%M} to {to_datetime(record.window.end):%Y-%m-%d %H:%M} UTC"
    share = 100 * record.covered.share_of(record.window)
    run.wrapped(f"{record.source}: {record.readings:,} new readings, {span}, {share:.1f} % proven complete", "", "  ")
    for note in record.notes:
        run.wrapped(f"note: {note}", "  ", "        ")
    if record.error is not None:
        run.fail(record.error, "what was read before is kept; harvest check tells more")


def _dry_run(run: Run, connectors: list[Connector], since: int | None, as_json: bool) -> int:
    from harvester.collect import plan

    data: list[dict[str, Any]] = []
    with run.store() as store:
        for one in connectors:
            for ask in plan(store, one, run.at, since):
                queries = {metric.name: metric.query for metric in ask.connector.definitions()}
                data.append(
                    {
                        "source": one.source,
                        "start": to_datetime(ask.window.start).isoformat(),
                        "end": to_datetime(ask.window.end).isoformat(),
                        "metrics": [{"name": name, "query": queries[name]} for name in ask.metrics],
                    }
                )
    if as_json:
        run.json("collect", {"planned": data})
        return OK
    for entry in data:
        run.print(f"{entry['source']}: would ask from {entry['start'][:16]} to {entry['end'][:16]} UTC")
        for metric in entry["metrics"]:
            run.wrapped(f"{metric['name']}: {metric['query']}", "  ", "      ")
    return OK


@contextmanager
def progress(run: Run, title: str) -> Iterator[Callable[[Seen], None]]:
    """Show a bar on a terminal while something is collected; elsewhere nothing."""
    if not run.watched:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[readings]} readings"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=run.err), transient=True) as bar:
        task = bar.add_task(title, total=1.0, readings="0")
        yield lambda seen: bar.update(task, completed=seen.share, readings=f"{seen.readings:,}")


def pull(
    run: Run, store: Store, connectors: Iterable[Connector], since: int | None = None
) -> Iterator[tuple[Connector, Collection | None]]:
    """
    Collect sources in turn, with a bar, and yield each with its record; at the end freeze what is ready to be frozen.

    The record is None where another process is at the source.
    """
    from harvester.collect import collect as collect_one
    from harvester.impact import settle

    for one in connectors:
        with progress(run, f"collecting {one.source}") as report:
            record = collect_one(store, one, now=run.now, since=since, progress=report)
        yield one, record
    settle(store, run.settings, run.at)


COMMANDS = {"collect": collect}

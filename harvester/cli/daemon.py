"""``run``, ``status`` and the daemon's child ``tick``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from harvester import figures
from harvester.cli import FINDINGS, OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run
from harvester.readings import to_milliseconds


@verb("run", "harvest run\nharvest run --log-format json")
@click.option(
    "--log-format", type=click.Choice(["human", "json"]), default="human", show_default=True, help="How it logs."
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
def run_daemon(run: Run, log_format: str, once: bool) -> int:
    """
    Collect in the background until told to stop.

    Each source is collected when it is due, what a sleeping machine missed is caught up, baselines are frozen, the
    weekly digest is sent. SIGTERM and Ctrl-C stop it cleanly, SIGHUP reads the settings again, SIGUSR1 makes it look at
    once what is due.
    """
    from harvester.daemon import run as run_until_stopped
    from harvester.settings import load

    _ = run.configured  # a wrong setting stops the start, before anything runs
    return run_until_stopped(lambda: load(run.config), now=run.now, log_format=log_format, once=once)


@verb("tick", "harvest tick --config harvester.toml")
def tick(run: Run) -> int:
    """Do what is due now, once; the daemon's child."""
    from harvester.daemon import child
    from harvester.settings import load

    return child(lambda: load(run.config), run.now, run.out)


@verb("status", "harvest status\nharvest status --json")
@as_json
def status(run: Run, as_json: bool) -> int:
    """
    Show sources, their age, and what comes next.

    Exit code 3 when a source failed the last time.
    """
    from harvester.daemon import status as look

    with run.store() as store:
        data = look(store, run.configured, run.at)
    if as_json:
        run.json("status", data)
    else:
        _print(run, data)
    return FINDINGS if any(one["error"] for one in data["sources"]) else OK


def _print(run: Run, data: dict[str, Any]) -> None:
    daemon = data["daemon"]
    if daemon["running"]:
        run.print(f"daemon    runs since {_moment(daemon['since'])} (process {daemon['pid']} on {daemon['host']})")
    else:
        run.print("daemon    does not run on this machine; harvest run starts it")
    store = data["store"]
    run.print(f"store     {store['target']}: {store['series']:,} series, {figures.value(store['bytes'], 'bytes')}")
    run.print()
    rows = [
        [
            one["name"],
            _moment(one["last_good"]) if one["last_good"] else "never",
            figures.value(one["lag_seconds"], "seconds") if one["lag_seconds"] is not None else "-",
            f"{one['readings']:,}",
            figures.share(one["covered"]),
            "under way" if one["collecting"] else _due(run, one["next_due"]),
        ]
        for one in data["sources"]
    ]
    run.table(["source", "last good", "behind", "new in 24 h", "proven", "next"], rows, right=frozenset({2, 3, 4}))
    for one in data["sources"]:
        if one["error"]:
            times = f", {one['failures']} times in a row" if one["failures"] > 1 else ""
            run.print()
            run.wrapped(f"!! {one['name']} failed{times}: {one['error']}", "", "   ")
        for note in one["notes"]:
            run.wrapped(f"note: {one['name']}: {note}", "", "      ")
    for one in data["deliveries"]:
        said = f"sent {_moment(one['sent'])}" if one["sent"] else f"not sent: {one['error'] or 'under way'}"
        run.wrapped(f"digest {one['week']}: {said}", "", "  ")


def _moment(text: str | None) -> str:
    return "?" if text is None else figures.moment(to_milliseconds(datetime.fromisoformat(text)))


def _due(run: Run, text: str | None) -> str:
    if text is None:
        return "at once"
    left = (to_milliseconds(datetime.fromisoformat(text)) - run.at) / 1000
    return f"in {figures.value(left, 'seconds')}" if left > 0 else "due"


COMMANDS = {"run": run_daemon, "tick": tick, "status": status}

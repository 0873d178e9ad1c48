"""``run``, ``status`` and the daemon's child ``tick``."""

from __future__ import annotations

import json
from typing import Any

import click

from harvester import figures
from harvester.cli import FINDINGS, OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run


@verb("run", "harvest run\nharvest run --log-format json")
@click.option(
    "--log-format", type=click.Choice(["human", "json"]), default="human", show_default=True, help="How it logs."
)
def run_daemon(run: Run, log_format: str) -> int:
    """
    Collect in the background until told to stop.

    Each source is collected when it is due, what a sleeping machine missed is caught up, baselines are frozen, the
    weekly digest is sent. SIGTERM and Ctrl-C stop it cleanly, SIGHUP reads the settings again.
    """
    from harvester.daemon import run as run_until_stopped
    from harvester.settings import load

    _ = run.configured  # a wrong setting stops the start, before anything runs
    return run_until_stopped(lambda: load(run.config), now=run.now, log_format=log_format)


@verb("tick", "harvest tick --config harvester.toml")
@as_json
def tick(run: Run, as_json: bool) -> int:  # noqa: ARG001  it always prints one JSON line
    """Do what is due now, once; the daemon's child."""
    from harvester.daemon import tick as do_what_is_due

    with run.store() as store:
        done = do_what_is_due(run.configured, store, run.now)
    print(json.dumps(done), file=run.out)
    return OK


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
    raise AssertionError(figures)


COMMANDS = {"run": run_daemon, "tick": tick, "status": status}

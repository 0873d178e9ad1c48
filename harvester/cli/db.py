"""``db``: look after the store."""

from __future__ import annotations

import click

from harvester.cli import FINDINGS, OK
from harvester.cli.options import as_json, common, verb
from harvester.cli.run import Run


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
        run.print(f"{name:<12} {value:,}" if isinstance(value, int) and name != "schema" else f"{name:<12} {value}")
    return OK


@verb("check", "harvest db check")
@as_json
def check(run: Run, as_json: bool) -> int:
    """Read every block, pending row and frozen copy; exit code 3 when something is damaged."""
    with run.store(create=False) as store:
        problems = store.check()
    if as_json:
        run.json("db-check", {"problems": problems})
    else:
        for one in problems:
            run.print(f"!!  {one}")
        run.print("all is well" if not problems else f"{len(problems)} findings")
    return FINDINGS if problems else OK


for _one in (info, check):
    db.add_command(_one)

COMMANDS = {"db": db}

"""``demo``: the tour."""

from __future__ import annotations

from pathlib import Path

import click

from harvester.cli.options import verb
from harvester.cli.run import Run


@verb("demo", "harvest demo\nharvest demo --keep ./acme-demo")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for its settings, store and digest (default: a new one below the temporary folder).",
)
def demo(run: Run, keep: Path | None) -> int:
    """
    Tour harvester on a small made-up company.

    Serves twelve weeks of data on loopback and goes through the main job on them: collect, baseline, shipped, diff,
    candidates, digest. Takes well under a minute and contacts nothing else.
    """
    from harvester.cli import main
    from harvester.demo.tour import tour

    return tour(run.out, run.err, now=run.now, harvest=main, folder=keep)


COMMANDS = {"demo": demo}

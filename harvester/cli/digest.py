"""``digest``: show, preview, send or test the weekly digest."""

from __future__ import annotations

from pathlib import Path

import click

from harvester.cli import FAILED, OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run
from harvester.errors import UsageError


@verb("digest", "harvest digest\nharvest digest --preview --out /tmp/digest\nharvest digest --test")
@click.option("--preview", is_flag=True, help="Write the mail as .eml and .html files and print their paths.")
@click.option(
    "--out", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder for --preview (default: here)."
)
@click.option(
    "--week", is_flag=True, help="This week's stored digest, as it is or will be mailed, instead of a fresh one."
)
@click.option("--send", is_flag=True, help="Send this week's digest now if it is due and was not sent.")
@click.option("--test", is_flag=True, help="Send a labelled test mail.")
@as_json
def digest(run: Run, preview: bool, folder: Path | None, week: bool, send: bool, test: bool, as_json: bool) -> int:
    """
    Show, preview or send the weekly digest.

    Without options: what a digest composed now would say. The daemon composes and mails one each week; without [mail]
    in the settings it is only shown here.
    """
    from harvester.digest.compose import compose, for_week
    from harvester.digest.render import preview as write_preview
    from harvester.digest.render import text

    if sum((preview, send, test)) > 1:
        raise UsageError("show digest with", "these options", "--preview, --send and --test exclude each other")
    if folder is not None and not preview:
        raise UsageError(
            "write digest to", str(folder), "--out goes with --preview", hint="harvest digest --preview --out DIR"
        )
    if test:
        return _test(run)
    if send:
        return _send(run)
    with run.store() as store:
        made = for_week(store, run.configured, run.now()) if week else compose(store, run.configured, run.now())
    if preview:
        for path in write_preview(made, folder or Path()):
            run.print(str(path))
        return OK
    if as_json:
        run.json("digest", made.as_json())
    else:
        print(text(made), file=run.out)
    return OK


def _test(run: Run) -> int:
    from harvester.digest.send import send_test

    _needs_mail(run)
    send_test(run.settings, run.now)
    run.print("sent a test mail")
    return OK


def _send(run: Run) -> int:
    from harvester.digest.send import send_due

    _needs_mail(run)
    with run.store() as store:
        delivery = send_due(store, run.configured, run.now)
    run.print("nothing to send: this week's digest is not due yet, or was sent" if delivery is None else str(delivery))
    return FAILED if delivery is not None and delivery.error else OK


def _needs_mail(run: Run) -> None:
    if run.settings.mail is None:
        raise UsageError(
            "send digest",
            "by mail",
            "no [mail] is configured",
            hint="harvest digest shows it; harvest init has an example",
        )


COMMANDS = {"digest": digest}

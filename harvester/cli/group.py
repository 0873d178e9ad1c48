"""The group of all verbs: names and one line each; the modules are imported when a verb is called."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module

import click

from harvester.cli.options import common

VERBS: Mapping[str, tuple[str, str]] = {
    "init": ("setup", "Write a settings file to start from."),
    "check": ("setup", "Look whether settings, store and sources are right."),
    "run": ("daemon", "Collect in the background until told to stop."),
    "status": ("daemon", "Show sources, their age, and what comes next."),
    "collect": ("collect", "Pull readings from the sources now."),
    "baseline": ("changes", "Freeze the state before a change."),
    "shipped": ("changes", "Say that a change is live."),
    "changes": ("changes", "List, edit and remove changes."),
    "diff": ("diff", "Compare before and after a change."),
    "candidates": ("candidates", "Show and decide what is worth telling."),
    "digest": ("digest", "Show, preview or send the weekly digest."),
    "metrics": ("metrics", "List the metrics that are, or can be, collected."),
    "connectors": ("metrics", "List the connectors, or explain one with its options."),
    "db": ("db", "Look after the store."),
    "completion": ("setup", "Print the completion script for a shell."),
    "demo": ("demo", "Tour harvester on a small made-up company."),
    "tick": ("daemon", "Do what is due now, once; the daemon's child."),
}
"""Verb: its module and the line ``harvest --help`` shows."""

HIDDEN = frozenset({"tick"})


class Verbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the base class fixes the names
        return [name for name in VERBS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module = import_module(f"harvester.cli.{VERBS[cmd_name][0]}")
        found: click.Command = module.COMMANDS[cmd_name]
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], list(VERBS), 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no verb {args[0]}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, VERBS[name][1]) for name in self.list_commands(ctx)])


EPILOG = """\b
Example:
  harvest init && harvest check
  harvest baseline checkout-index --expect "checkout latency p95 lower"
  harvest shipped checkout-index
  harvest diff checkout-index

Exit codes: 0 ok; 1 failed; 2 wrong words or settings; 3 findings; 4 inconclusive or partial."""


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from harvester import __version__

        click.echo(f"harvest {__version__}", file=ctx.obj.out)
        ctx.exit()


@click.group(
    cls=Verbs,
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@common
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def harvest() -> None:
    """Keep the numbers of backend work: baselines before a change, quantified impact after it."""

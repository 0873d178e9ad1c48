"""What verbs share: options every one takes, times and durations as a person writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from harvester.cli.run import Run

Function = TypeVar("Function", bound=Callable[..., Any])

pass_run = click.make_pass_decorator(Run)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:  # said before the verb and not after it, or the other way round: what was said counts
            setattr(ctx.find_object(Run), name, value)

    return callback


def common(function: Function) -> Function:
    """Add ``--config`` and ``--quiet``, which may stand before and after the verb."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_set("config"),
        metavar="FILE",
        help="Settings file (default: $HARVESTER_CONFIG, ./harvester.toml, the user's configuration folder).",
    )
    quiet = click.option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=_set("quiet"),
        help="Say nothing on standard error but failures.",
    )
    return config(quiet(function))


def verb(name: str, example: str, **more: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function: its docstring is the help, the example closes it."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100, **more.pop("context_settings", {})}
        made: click.Command = click.command(
            name, cls=click.Command, epilog=f"\b\nExample:\n{lines}", context_settings=settings, **more
        )(common(pass_run(function)))
        return made

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


class Instant(click.ParamType[datetime]):
    """
    A point in time: ISO 8601 with its offset, or so long ago.

    ``2026-11-02T14:00+01:00``, ``2026-11-02T13:00Z``, ``3h`` or ``2d`` (before now), ``now``.
    """

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        assert ctx is not None
        run = ctx.find_object(Run)
        assert run is not None
        text = str(value).strip()
        if text == "now":
            return run.now()
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])(?:\s+ago)?", text):
            unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
            return run.now() - timedelta(**{unit: float(found[1])})
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is not a time such as 2026-11-02T14:00+01:00, 3h or 2d (before now)", param, ctx)
        if at.tzinfo is None:
            self.fail(f"{text!r} has no time zone; write {text}Z for UTC, or an offset such as +01:00", param, ctx)
        return at


INSTANT = Instant()

"""One run of the command line: where it writes, what it was told, and what it opens on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harvester.errors import UsageError
from harvester.readings import to_milliseconds

if TYPE_CHECKING:
    from harvester.settings import Settings
    from harvester.store import Store


@dataclass
class Run:
    """
    What every verb is handed.

    Attributes:
        out: Data goes here.
        err: Talk goes here.
        now: The clock.
        config: The settings file that was named, or None.
        quiet: Whether talk is left out.
    """

    out: TextIO
    err: TextIO
    now: Callable[[], datetime]
    config: Path | None = None
    quiet: bool = False
    _settings: Settings | None = None

    @property
    def at(self) -> int:
        """The present in milliseconds UTC."""
        return to_milliseconds(self.now())

    @property
    def settings(self) -> Settings:
        """The settings, read and checked on first use."""
        if self._settings is None:
            from harvester.settings import load

            self._settings = load(self.config)
        return self._settings

    @property
    def configured(self) -> Settings:
        """The settings, of which at least one source is wanted."""
        if not self.settings.sources:
            where = self.settings.path or "no settings file was found"
            raise UsageError(
                "find sources in", str(where), "none is configured", hint="harvest init writes a settings file"
            )
        return self.settings

    @contextmanager
    def store(self, *, create: bool = True) -> Iterator[Store]:
        """Open the configured store."""
        from harvester.store import Store

        with Store.open(self.settings.store.url, create=create, now=self.now) as store:
            yield store

    # -- talking ------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Tell the person something that is not data."""
        if not self.quiet:
            print(clean(text), file=self.err, flush=True)

    def fail(self, sentence: str, hint: str = "") -> None:
        """Tell what failed and what would mend it."""
        print(f"harvest: {clean(sentence)}", file=self.err)
        if hint:
            print(f"  hint: {clean(hint)}", file=self.err)
        self.err.flush()

    def print(self, text: str = "") -> None:
        """Write a line of data."""
        print(clean(text), file=self.out)

    def wrapped(self, text: str, indent: str = "", hanging: str | None = None) -> None:
        """Write a paragraph in lines of at most 80 columns."""
        for line in wrap(clean(text), indent, indent if hanging is None else hanging):
            print(line, file=self.out)

    def json(self, verb: str, data: Any) -> None:
        """Write data in the one envelope."""
        envelope = {"schema": f"harvester/{verb}/1", "generated": self.now().isoformat(), "data": data}
        print(json.dumps(envelope, indent=2, allow_nan=False), file=self.out)

    def table(self, heads: list[str], rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> None:
        """Write a table as wide as the terminal allows; numbers in the columns ``right`` stand to the right."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for index, head in enumerate(heads):
            table.add_column(head, justify="right" if index in right else "left", no_wrap=index in right)
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        width = None if self.out.isatty() else 100
        Console(file=self.out, width=width, highlight=False, markup=False).print(table)

    @property
    def watched(self) -> bool:
        """Whether a person sits before standard error, who would like to see how far something is."""
        return self.err.isatty() and not self.quiet


def clean(text: str) -> str:
    r"""
    Return text without control characters, for labels and titles come from elsewhere and terminals obey them.

    >>> clean("a\x1b[31mb\tc")
    'a[31mb\tc'
    """
    return "".join(one for one in text if one.isprintable() or one in "\n\t")


def wrap(text: str, indent: str, hanging: str) -> list[str]:
    """Return a paragraph in lines of at most 80 columns; words are never broken."""
    import textwrap

    return textwrap.wrap(
        text, 80, initial_indent=indent, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )


def stdin_is_terminal() -> bool:
    """Whether a person could answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()

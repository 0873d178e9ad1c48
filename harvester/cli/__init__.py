"""
The command line: ``harvest VERB``.

Data goes to standard output, talk to standard error. Each group of verbs is a module of its own and is imported when
one of its verbs is called, so that ``harvest --help`` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TextIO

OK, FAILED, USAGE, FINDINGS, INCONCLUSIVE = 0, 1, 2, 3, 4


def utc_now() -> datetime:
    """Return the time of day, aware."""
    return datetime.now(UTC)


def main(
    argv: Sequence[str] | None = None,
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
    now: Callable[[], datetime] = utc_now,
) -> int:
    """
    Run one command and return its exit status; everything it touches may be passed in.

    0 ok, 1 failed, 2 wrong words or settings, 3 findings, 4 inconclusive or partial; 130 interrupted.
    """
    # The differ's matrices are small: threads over them cost four times the processor time and save none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    import click

    from harvester.cli.group import harvest
    from harvester.cli.run import Run
    from harvester.errors import ConfigError, HarvesterError, UsageError

    run = Run(out=out or sys.stdout, err=err or sys.stderr, now=now)
    try:
        code = harvest.main(list(sys.argv[1:] if argv is None else argv), "harvest", standalone_mode=False, obj=run)
    except click.exceptions.Abort:
        run.say("interrupted")
        return 130
    except click.ClickException as e:
        run.fail(_sentence(e), _hint(e))
        return USAGE
    except (ConfigError, UsageError) as e:
        run.fail(_plain(e), e.hint)
        return USAGE
    except HarvesterError as e:
        run.fail(_plain(e), e.hint)
        return FAILED
    except KeyboardInterrupt:
        run.say("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed; there is nobody to tell, and the interpreter must not try at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else OK


def _plain(error: Exception) -> str:
    operation, target, cause = error.args
    return f"{operation} {target}: {cause}"


def _sentence(error: Exception) -> str:
    text = str(getattr(error, "format_message", lambda: error)())
    return text[:1].lower() + text[1:].rstrip(".")


def _hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else "harvest --help"

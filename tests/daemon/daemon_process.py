"""
A daemon in a process of its own, hurried: ``python daemon_process.py run|tick --config FILE``.

Its clock is the machine's plus the seconds in the file that ``$CLOCK_OFFSET`` names; its child is this file too, so that
both share the clock. Everything else is the product's.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harvester.daemon import Patience, child, run
from harvester.errors import HarvesterError
from harvester.settings import load

PATIENCE = Patience(heartbeat=0.5, silence=float(os.environ.get("SILENCE", "60")), pause=0.5, longest_pause=2.0)


def now() -> datetime:
    offset = Path(os.environ["CLOCK_OFFSET"])
    return datetime.now(UTC) + timedelta(seconds=float(offset.read_text()) if offset.exists() else 0.0)


def main() -> int:
    verb, config = sys.argv[1], Path(sys.argv[-1])
    if verb == "tick":
        if "BUSY" in os.environ:
            from harvester.store import engine

            engine._BUSY_MILLISECONDS = int(os.environ["BUSY"])
        return child(lambda: load(config), now, sys.stdout)
    try:
        return run(
            lambda: load(config), now=now, log_format="json", once=verb == "once", patience=PATIENCE,
            command=(sys.executable, __file__, "tick"),
        )
    except HarvesterError as e:
        print(f"harvest: {e}", file=sys.stderr)
        return 1
    finally:
        if "MODULES" in os.environ:
            Path(os.environ["MODULES"]).write_text(json.dumps(sorted(sys.modules)))


if __name__ == "__main__":
    sys.exit(main())

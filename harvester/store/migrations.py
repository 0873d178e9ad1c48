"""
Numbered steps from one schema version to the next.

``STEPS[n]`` brings version n to n + 1. A store older than the code is copied aside before the first step runs (on
PostgreSQL the steps are one transaction, and a copy is pg_dump's work); a newer one is refused, since nothing here can
know what its tables mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection

STEPS: Mapping[int, Callable[[Connection], None]] = {}

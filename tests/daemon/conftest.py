"""A place for a daemon, and a PostgreSQL that comes and goes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_place import Place, Postgresql


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def postgresql() -> Iterator[Postgresql]:
    pytest.importorskip("psycopg")
    binaries = max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), key=str, default=None)
    if binaries is None:
        pytest.skip("PostgreSQL's initdb is not installed: the daemon was not tried with a PostgreSQL that goes away")
    folder = Path(tempfile.mkdtemp(prefix="harvester-pg-", dir="/tmp"))  # a socket's path may have 107 characters only
    server = Postgresql(folder, binaries)
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)

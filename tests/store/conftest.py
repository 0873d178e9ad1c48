"""A store to test: on SQLite, and the same tests again on a throwaway PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    from soak_store import Missing, postgresql

    pytest.importorskip("psycopg")
    try:
        with postgresql() as url:
            yield url
    except Missing as e:
        pytest.skip(f"{e}: the PostgreSQL half of the store's suite did not run")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'folder' / 'store.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    import sqlalchemy as sa

    engine = sa.create_engine(postgresql_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return postgresql_server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest) -> str:
    """The address of a store that does not exist yet, on each engine in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))

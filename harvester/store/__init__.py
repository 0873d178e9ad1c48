"""
The snapshot store: readings, coverage and state of every source, frozen copies, documents and leases.

SQLite by default, PostgreSQL when several machines share it. Importing this package loads neither SQLAlchemy nor numpy.
"""

from typing import TYPE_CHECKING, Any

from harvester.store.records import Collection, Damage, FrozenCopy, Lease, Written

if TYPE_CHECKING:
    from harvester.store.store import Store

__all__ = ["Collection", "Damage", "FrozenCopy", "Lease", "Store", "Written"]


def __getattr__(name: str) -> Any:
    if name == "Store":
        from harvester.store.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

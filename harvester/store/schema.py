"""The tables, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

VERSION = 1
"""What ``meta`` says of a store written by this code; see ``migrations``."""

DAY_BITS = 20
"""A block's id is ``series << 20 | UTC day``: one series' days lie together, and a range of days is a range of ids."""

DAY_MASK = (1 << DAY_BITS) - 1

metadata = MetaData()

# On SQLite only a column declared INTEGER is the rowid itself.
_Key = BigInteger().with_variant(Integer, "sqlite")

# Beside schema_version: the last pending row ever folded, and the last link of the chain of frozen copies.
meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

series = Table(
    "series",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("labels", Text, nullable=False),  # JSON pairs, sorted
    Column("definition", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("specification", Text, nullable=False),  # the whole metric, JSON
    Index("series_identity", "source", "metric", "labels", "definition", unique=True),
)

block = Table(
    "block",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=False),
    Column("folded", BigInteger, nullable=False),  # pending rows up to this one are in the block already
    Column("data", LargeBinary, nullable=False),
)

# What a batch brought in small pieces, all its series in one row. Ids only ever rise, also when the table was emptied,
# since blocks remember them; so they are given by the store. No index beside the key: every commit would rewrite it.
pending = Table(
    "pending",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=False),
    Column("low", BigInteger, nullable=False),  # the smallest and the largest block id it has readings for
    Column("high", BigInteger, nullable=False),
    Column("first_day", BigInteger, nullable=False),  # of all its readings: should it be damaged, this much is doubtful
    Column("last_day", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

occurrence = Table(
    "occurrence",
    metadata,
    Column("series", BigInteger, ForeignKey("series.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("day", BigInteger, nullable=False),  # the UTC day it started
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("attributes", Text, nullable=False),
    Index("occurrence_start", "series", "start"),
)

def _coverage(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("source", Text, primary_key=True),
        Column("metric", Text, primary_key=True),
        Column("labels", Text, primary_key=True),  # JSON pairs, or "*" for every series of the metric
        Column("question", Text, primary_key=True),  # what was asked of the source
        Column("start", BigInteger, primary_key=True),
        Column("end", BigInteger, nullable=False),
    )


coverage = _coverage("coverage")

# What was proven of days whose readings were dropped: apart, lest nothing be taken for zero where there was something.
past_coverage = _coverage("past_coverage")

# What stays of a block that retention dropped, under its id.
summary = Table(
    "summary",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

state = Table("state", metadata, Column("source", Text, primary_key=True), Column("data", Text, nullable=False))

note = Table(
    "note",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Index("note_source", "source", "id"),
)

collection = Table(
    "collection",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("source", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("collection_source", "source", "id"),
)

# Every revision stays; the latest of a (kind, id) counts, and one without data is a deletion.
document = Table(
    "document",
    metadata,
    Column("revision", _Key, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("data", Text),
    Index("document_identity", "kind", "id", "revision"),
)

# What may exist once only, whoever comes first.
once = Table(
    "once",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("data", Text, nullable=False),
)

frozen = Table(
    "frozen",
    metadata,
    Column("number", _Key, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("previous", Text, nullable=False),
    Column("chain", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("due", BigInteger),
    Column("owner", Text, nullable=False, default=""),
    Column("lease_until", BigInteger, nullable=False, default=0),
    Column("fence", BigInteger, nullable=False, default=0),
)

BLOBS = (("block", "data"), ("pending", "data"), ("summary", "data"), ("frozen", "content"))
"""Columns that hold compressed bytes, which PostgreSQL need not try to compress again."""

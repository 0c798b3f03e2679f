"""Tables of the ledger and the migrations that lead to them."""

from collections.abc import Callable, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
)

from vlmrl.errors import DataError

metadata = MetaData()

question = Table(
    "question",
    metadata,
    Column("key", String(64), primary_key=True, comment="sha256 of content"),
    Column("kind", String(16), nullable=False),
    Column("labeler", Text, nullable=False, comment="name of who was to answer"),
    Column("content", Text, nullable=False, comment="canonical JSON of everything that determines the answer"),
    Column("created", Double, nullable=False),
)

reply = Table(
    "reply",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("question", String(64), ForeignKey("question.key"), nullable=False),
    Column("attempt", Integer, nullable=False, comment="1 for a question's first reply"),
    Column("answer_type", String(8), nullable=False, comment="verdict, float, floats, bool or none"),
    Column("answer", Text, nullable=False),
    Column("probability", Double),
    Column("annotator", Text, nullable=False),
    Column("text", Text, nullable=False, comment="verbatim"),
    Column("error", Text, nullable=False),
    Column("served", Text, nullable=False, server_default="", comment="model and fingerprint as the server tells"),
    Column("calls", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("usd", Double, nullable=False),
    Column("latency_s", Double, nullable=False),
    Column("time", Double, nullable=False, comment="seconds since 1970"),
    Index("reply_question", "question"),
)

subject = Table(
    "subject",
    metadata,
    Column("question", String(64), ForeignKey("question.key"), primary_key=True),
    Column("occurrence", String(64), primary_key=True, comment="one query's items: equal pictures share a question"),
    Column("position", Integer, primary_key=True, comment="0 is side a"),
    Column("part", Integer, primary_key=True, comment="span within a clip"),
    Column("episode", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("stop", Integer, comment="null for a single frame"),
    Column("camera", Text, nullable=False),
    Index("subject_episode", "episode"),
)

lease = Table(
    "lease",
    metadata,
    Column("question", String(64), ForeignKey("question.key"), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("expires", Double, nullable=False),
    Index("lease_owner", "owner"),
)

migration = Table(
    "migration",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("applied", Double, nullable=False),
)

Migration = tuple[str, Callable[[Connection], None]]


def _first(connection: Connection) -> None:
    metadata.create_all(connection)


def _served(connection: Connection) -> None:
    """Tell which model answered; a database made by the first migration of today has the column already."""
    if "served" not in {column["name"] for column in inspect(connection).get_columns(reply.name)}:
        connection.execute(text("ALTER TABLE reply ADD COLUMN served TEXT NOT NULL DEFAULT ''"))


MIGRATIONS: Sequence[Migration] = (
    ("questions, replies, subjects, leases", _first),
    ("which model answered", _served),
)
"""In order; the schema's version is the number of those applied. Only ever append."""


def migrate(connection: Connection, migrations: Sequence[Migration], *, now: float) -> None:
    """Apply what is missing, within the caller's transaction.

    Raises:
        DataError: if the database was written by a newer vlmrl.
    """
    found = version(connection)
    if found > len(migrations):
        raise DataError(
            f"the ledger has schema version {found}, this vlmrl knows {len(migrations)}: update vlmrl; "
            "nothing in it was touched"
        )
    migration.create(connection, checkfirst=True)
    for number, (name, change) in enumerate(migrations[found:], start=found + 1):
        change(connection)
        connection.execute(migration.insert().values(version=number, name=name, applied=now))


def version(connection: Connection) -> int:
    """Return the schema version of a database, 0 when it has no ledger."""
    if not inspect(connection).has_table(migration.name):
        return 0
    return max(connection.execute(select(migration.c.version)).scalars(), default=0)

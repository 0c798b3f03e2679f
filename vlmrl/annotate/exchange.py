"""Labels in and out as one Parquet file: a row a reply, with its question and what that is about.

Questions keep their keys, so imported answers count as answered: labels can be published and are never paid for again.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from vlmrl.annotate import schema
from vlmrl.annotate.database import chunks
from vlmrl.annotate.ledger import Ledger, insert_missing
from vlmrl.errors import ConfigError, DataError

FORMAT = "vlmrl labels 1"
_ROWS = 2_000
"""Replies held at a time."""
_QUESTION = [c.name for c in schema.question.columns]
_REPLY = [c.name for c in schema.reply.columns if c.name not in ("id", "question")]
_LATER = {"served": ""}
"""Columns that files of earlier versions lack."""
_PLACE = [c.name for c in schema.subject.columns if c.name != "question"]


def export_parquet(ledger: Ledger, path: Path) -> int:
    """Write all replies of a ledger; return how many.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    columns = {c.name: c for c in (*schema.question.columns, *schema.reply.columns) if c.name not in ("id", "question")}
    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    fields = {name: types[column.type.python_type] for name, column in columns.items()} | {"subjects": arrow.string()}
    kinds = arrow.schema(fields, metadata={"format": FORMAT})
    count = 0
    with ledger.transaction(writes=False) as connection, parquet.ParquetWriter(path, kinds, compression="zstd") as file:
        for rows in _exported(connection):
            file.write_table(arrow.Table.from_pylist(rows, schema=kinds))
            count += len(rows)
    return count


def _exported(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    reply, question, subject = schema.reply, schema.question, schema.subject
    keys = list(connection.execute(select(question.c.key).order_by(question.c.created, question.c.key)).scalars())
    for some in chunks(keys):
        about: defaultdict[str, list[list[Any]]] = defaultdict(list)
        places = select(subject).where(subject.c.question.in_(some)).order_by(*subject.primary_key.columns)
        for row in connection.execute(places).mappings():
            about[row["question"]].append([row[name] for name in _PLACE])
        joined = select(question, *(reply.c[n] for n in _REPLY)).join(reply).where(question.c.key.in_(some))
        rows = connection.execute(joined.order_by(question.c.created, question.c.key, reply.c.id)).mappings()
        if found := [dict(r) | {"subjects": json.dumps(about[r["key"]])} for r in rows]:
            yield found


def import_parquet(ledger: Ledger, path: Path) -> int:
    """Add the replies of a file that the ledger does not hold; return how many were new.

    Raises:
        ConfigError: if pyarrow is not installed.
        DataError: if the file is none of ours, or a key is not the digest of its question.
    """
    arrow, parquet = _arrow()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowInvalid) as e:
        raise DataError(f"cannot read labels from {path}: {e}") from e
    with file, ledger.transaction(writes=True) as connection:
        found = (file.schema_arrow.metadata or {}).get(b"format", b"something else").decode()
        if found != FORMAT:
            raise DataError(f"{path} holds {found}; wanted {FORMAT}")
        return sum(_merge(connection, batch.to_pylist(), path) for batch in file.iter_batches(batch_size=_ROWS))


def _merge(connection: Connection, found: Sequence[Mapping[str, Any]], path: Path) -> int:
    rows = [_LATER | dict(r) for r in found]
    altered = [r["key"] for r in rows if hashlib.sha256(r["content"].encode()).hexdigest() != r["key"]]
    if altered:
        raise DataError(f"{path} was altered: {altered[0]} is not the digest of its question")
    questions = {r["key"]: {name: r[name] for name in _QUESTION} for r in rows}
    places = {
        (key, *place[:3]): dict(zip(["question", *_PLACE], [key, *place], strict=True))
        for key, text in {r["key"]: r["subjects"] for r in rows}.items()
        for place in json.loads(text)
    }
    known: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    identity = [name for name in _REPLY if name != "attempt"]
    for some in chunks(list(questions)):
        insert_missing(connection, schema.question, [questions[key] for key in some])
        for row in connection.execute(select(schema.reply).where(schema.reply.c.question.in_(some))).mappings():
            known[row["question"]].add(tuple(row[name] for name in identity))
    insert_missing(connection, schema.subject, list(places.values()))
    new: list[dict[str, Any]] = []
    for row in rows:
        this = tuple(row[name] for name in identity)
        if this not in known[row["key"]]:
            known[row["key"]].add(this)
            new.append(
                {name: row[name] for name in _REPLY} | {"question": row["key"], "attempt": len(known[row["key"]])}
            )
    if new:
        connection.execute(schema.reply.insert(), new)
    return len(new)


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as e:
        raise ConfigError("labels as Parquet need the package pyarrow: pip install 'vlmrl[video]'") from e

"""The ledger of labels: every question asked, every reply verbatim, so that no answer is ever paid for twice.

A question's key is the digest of its content as sent, so answers survive whatever happens to stores. Workers share the
queue through leases and survive each other's death.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from vlmrl.annotate import schema
from vlmrl.annotate.audit import TRAINED
from vlmrl.annotate.database import chunks, clock_of, open_engine, surely_dead, transaction
from vlmrl.annotate.question import canonical, digest, item_to_json
from vlmrl.annotate.record import reply_from_row, reply_to_row, subject_rows
from vlmrl.errors import DataError
from vlmrl.types import Preferences, Query, Reply, Verdict


@dataclass(frozen=True)
class Asked:
    """A question as the ledger keeps it."""

    key: str
    content: Mapping[str, object]
    query: Query


@dataclass(frozen=True)
class Leased:
    """What a worker got of the questions it wanted; the rest is with others."""

    granted: tuple[str, ...]
    answered: tuple[str, ...]
    """Answered by others in the meantime."""


class Ledger:
    """One database of questions and replies; safe for threads, processes and, by URL, machines."""

    def __init__(self, location: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open a path (SQLite, made where missing) or a URL such as postgresql://user@host/name.

        Raises:
            DataError: if the database is damaged, cannot be reached, or was written by a newer vlmrl.
        """
        self._engine, self._clock = open_engine(location), clock
        try:
            with self.transaction(writes=True) as connection:
                schema.migrate(connection, schema.MIGRATIONS, now=clock())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the connections; nothing is pending."""
        self._engine.dispose()

    def transaction(self, *, writes: bool) -> AbstractContextManager[Connection]:
        """Return a block that runs in one transaction of the database, for what has no method here.

        Raises:
            DataError: on entering or leaving, if the database cannot be reached or is damaged.
        """
        return transaction(self._engine, writes=writes)

    def register(self, questions: Sequence[Asked], *, labeler: str) -> None:
        """Write down questions and what they are about; those known already gain at most a subject."""
        with self.transaction(writes=True) as connection:
            now = self._now(connection)
            rows = [
                {
                    "key": q.key,
                    "kind": q.query.kind.value,
                    "labeler": labeler,
                    "content": canonical(q.content),
                    "created": now,
                }
                for q in {q.key: q for q in questions}.values()
            ]
            insert_missing(connection, schema.question, rows)
            subjects = {
                (r["question"], r["occurrence"], r["position"], r["part"]): r
                for q in questions
                for r in subject_rows(q.key, q.query)
            }
            insert_missing(connection, schema.subject, list(subjects.values()))

    def answers(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Return the reply that counts, the first readable one, of each question that has one."""
        found: dict[str, Reply] = {}
        with self.transaction(writes=False) as connection:
            for some in chunks(sorted(set(keys))):
                for row in connection.execute(_readable(some).order_by(schema.reply.c.id)):
                    found.setdefault(row.question, reply_from_row(row))
        return found

    def replies(self, key: str) -> list[Reply]:
        """Return every reply to a question, in the order they came."""
        with self.transaction(writes=False) as connection:
            wanted = select(schema.reply).where(schema.reply.c.question == key).order_by(schema.reply.c.id)
            return [reply_from_row(row) for row in connection.execute(wanted)]

    def unreadable(self, keys: Sequence[str]) -> dict[str, int]:
        """Return how many replies to each question could not be read; failed calls do not count."""
        table = schema.reply.c
        found: dict[str, int] = {}
        with self.transaction(writes=False) as connection:
            for some in chunks(sorted(set(keys))):
                wanted = select(table.question, func.count()).where(
                    table.question.in_(some), table.answer_type == "none", table.error == ""
                )
                found |= {key: count for key, count in connection.execute(wanted.group_by(table.question))}
        return found

    def keys(self) -> list[str]:
        """Return the keys of all questions, oldest first."""
        table = schema.question.c
        with self.transaction(writes=False) as connection:
            return list(connection.execute(select(table.key).order_by(table.created, table.key)).scalars())

    def questions_about(self, episode: str) -> list[str]:
        """Return the keys of all questions about an episode."""
        with self.transaction(writes=False) as connection:
            wanted = select(schema.subject.c.question).where(schema.subject.c.episode == episode).distinct()
            return sorted(connection.execute(wanted).scalars())

    def lease(self, keys: Sequence[str], *, owner: str, seconds: float) -> Leased:
        """Reserve registered questions for `owner`, except those answered or reserved by a worker that may live."""
        with self.transaction(writes=True) as connection:
            now = self._now(connection)
            granted: list[str] = []
            for some in chunks(sorted(set(keys))):
                _forget_dead(connection, some)
                rows = [{"question": key, "owner": owner, "expires": now + seconds} for key in some]
                granted += _take(connection, rows, owner=owner, now=now)
            # After the lease is ours: whoever answered before has committed both answer and release.
            answered = [row.question for some in chunks(granted) for row in connection.execute(_readable(some))]
            _release(connection, owner, answered)
        kept, order = set(granted) - set(answered), {key: i for i, key in enumerate(keys)}
        return Leased(tuple(sorted(kept, key=order.__getitem__)), tuple(sorted(set(answered), key=order.__getitem__)))

    def renew(self, owner: str, *, seconds: float) -> None:
        """Extend all leases of a worker: its heartbeat."""
        with self.transaction(writes=True) as connection:
            expires = self._now(connection) + seconds
            connection.execute(update(schema.lease).where(schema.lease.c.owner == owner).values(expires=expires))

    def release(self, owner: str) -> None:
        """Give up all leases of a worker."""
        with self.transaction(writes=True) as connection:
            connection.execute(delete(schema.lease).where(schema.lease.c.owner == owner))

    def record(self, replies: Sequence[tuple[str, Reply]], *, owner: str = "") -> None:
        """Commit replies to registered questions, verbatim, and end the owner's leases on them."""
        table = schema.reply
        with self.transaction(writes=True) as connection:
            now = self._now(connection)
            rows: list[dict[str, Any]] = []
            attempts = _attempts(connection, sorted({key for key, _ in replies}))
            for key, reply in replies:
                attempts[key] = attempts.get(key, 0) + 1
                rows.append({"question": key, "attempt": attempts[key], "time": now, **reply_to_row(reply)})
            if rows:
                connection.execute(table.insert(), rows)
            _release(connection, owner, [key for key, _ in replies])

    def snapshot(
        self, queries: Sequence[Query], keys: Sequence[str], *, above: Mapping[str, Reply] | None = None
    ) -> Preferences:
        """Return the labels of these queries that are fit for training, in their order, with the hash of exactly these.

        `keys` holds each query's question, as a job reports it. A tie trains at one half, a side at the labeler's own
        probability where it gave one; unsure, unreadable and unanswered ones are left out. `above` holds replies that
        count in place of the questions' own, by key: what people said about the same pairs.

        Raises:
            DataError: if the lengths differ or nothing is left.
        """
        if len(queries) != len(keys):
            raise DataError(f"{len(queries)} queries but {len(keys)} keys; wanted one key a query")
        answers = self.answers(keys) | dict(above or {})
        known = [(q, k, answers[k]) for q, k in zip(queries, keys, strict=True) if k in answers]
        kept = [(q, k, r.annotator, p) for q, k, r in known if (p := _target(r)) is not None]
        if not kept:
            raise DataError(
                f"none of {len(queries)} queries has an answer fit for training; run the labeling job first"
            )
        return Preferences(
            a=tuple(q.items[0] for q, *_ in kept),
            b=tuple(q.items[1] for q, *_ in kept),
            p_a=np.array([p for *_, p in kept], dtype=np.float32),
            annotator=", ".join(sorted({annotator for *_, annotator, _ in kept})),
            snapshot=digest([[k, [item_to_json(i) for i in q.items], p] for q, k, _, p in kept]),
            by=tuple(annotator for *_, annotator, _ in kept),
        )

    def _now(self, connection: Connection) -> float:
        shared = clock_of(connection)
        return self._clock() if shared is None else shared


def _attempts(connection: Connection, keys: Sequence[str]) -> dict[str, int]:
    """Return how many replies each question has; PostgreSQL's rows stay locked so that two workers count in turn."""
    found: dict[str, int] = {}
    for some in chunks(keys):
        locked = select(schema.question.c.key).where(schema.question.c.key.in_(some)).order_by(schema.question.c.key)
        connection.execute(locked.with_for_update())
        count = select(schema.reply.c.question, func.count()).where(schema.reply.c.question.in_(some))
        found |= {key: n for key, n in connection.execute(count.group_by(schema.reply.c.question))}
    return found


def _target(reply: Reply) -> float | None:
    """Return the probability to train on, None for what is never trained on."""
    if not isinstance(reply.answer, Verdict) or reply.answer is Verdict.UNSURE:
        return None
    if reply.answer is Verdict.TIE or reply.probability is None:
        return TRAINED[reply.answer]
    return reply.probability


def _readable(keys: Sequence[str]) -> Any:
    return select(schema.reply).where(schema.reply.c.question.in_(keys), schema.reply.c.answer_type != "none")


def _insert(connection: Connection, table: Any) -> Any:
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def insert_missing(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def _take(connection: Connection, rows: Sequence[dict[str, Any]], *, owner: str, now: float) -> list[str]:
    statement = _insert(connection, schema.lease).values(list(rows))
    fresh = statement.on_conflict_do_update(
        index_elements=[schema.lease.c.question],
        set_={"owner": statement.excluded.owner, "expires": statement.excluded.expires},
        where=or_(schema.lease.c.expires < now, schema.lease.c.owner == owner),
    )
    return list(connection.execute(fresh.returning(schema.lease.c.question)).scalars())


def _forget_dead(connection: Connection, keys: Sequence[str]) -> None:
    owners = connection.execute(select(schema.lease.c.owner).where(schema.lease.c.question.in_(keys)).distinct())
    if dead := [owner for owner in owners.scalars() if surely_dead(owner)]:
        connection.execute(delete(schema.lease).where(schema.lease.c.owner.in_(dead)))


def _release(connection: Connection, owner: str, keys: Sequence[str]) -> None:
    for some in chunks(keys):
        connection.execute(delete(schema.lease).where(schema.lease.c.question.in_(some), schema.lease.c.owner == owner))

"""The ledger of labels: every question asked, every reply verbatim, so that no answer is ever paid for twice.

A question's key is the digest of its content as sent, so answers survive whatever happens to stores. Workers share the
queue through leases and survive each other's death.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, delete, select, update

from vlmrl.annotate import leases, schema
from vlmrl.annotate.database import chunks, clock_of, insert, open_engine, transaction
from vlmrl.annotate.frozen import freeze
from vlmrl.annotate.leases import Leased
from vlmrl.annotate.question import canonical
from vlmrl.annotate.record import reply_from_row, reply_to_row, subject_rows
from vlmrl.annotate.replies import Replies
from vlmrl.types import Preferences, Query, Reply


@dataclass(frozen=True)
class Asked:
    """A question as the ledger keeps it."""

    key: str
    content: Mapping[str, object]
    query: Query


class Ledger:
    """One database of questions and replies; safe for threads, processes and, by URL, machines."""

    def __init__(
        self,
        location: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a path (SQLite, made where missing) or a URL such as postgresql://user@host/name.

        The times written down are by `clock`, leases by `since_boot`, which all processes of a machine share and nobody
        can set; with a database server both are by its clock.

        Raises:
            DataError: if the database is damaged, cannot be reached, or was written by a newer vlmrl.
        """
        self._engine, self._clock, self._since_boot = open_engine(location), clock, since_boot
        try:
            with self.transaction(writes=True) as connection:
                schema.migrate(connection, schema.MIGRATIONS, now=clock())
                self._opened = self._now(connection)
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

    def standing(self, keys: Sequence[str]) -> Replies:
        """Return the reply that counts to each question, in their order, without texts: few are held at a time."""
        found = Replies()
        for some in chunks(keys):
            answers = self.answers(some)
            found.extend(answers.get(key) for key in some)
        return found

    def last_served(self, keys: Sequence[str]) -> str:
        """Return the model that gave the last answer to any of these questions; empty where no server told."""
        table, last = schema.reply.c, (0, "")
        with self.transaction(writes=False) as connection:
            for some in chunks(keys):
                wanted = select(table.id, table.served).where(table.question.in_(some), table.served != "")
                wanted = wanted.where(table.answer_type != "none").order_by(table.id.desc()).limit(1)
                last = max([last, *((id, served) for id, served in connection.execute(wanted))])
        return last[1]

    def replies(self, key: str) -> list[Reply]:
        """Return every reply to a question, in the order they came."""
        with self.transaction(writes=False) as connection:
            wanted = select(schema.reply).where(schema.reply.c.question == key).order_by(schema.reply.c.id)
            return [reply_from_row(row) for row in connection.execute(wanted)]

    def unreadable(self, keys: Sequence[str]) -> dict[str, int]:
        """Return how many replies to each question could not be read; failed calls do not count."""
        found: dict[str, int] = {}
        with self.transaction(writes=False) as connection:
            for some in chunks(sorted(set(keys))):
                found |= leases.unreadable(connection, some)
        return found

    def verdicts(self, keys: Sequence[str]) -> Counter[str]:
        """Count the answers that stand, each as often as its question is among the keys; few are held at a time."""
        table, found = schema.reply.c, Counter[str]()
        with self.transaction(writes=False) as connection:
            for some in chunks(keys):
                wanted = select(table.question, table.answer).where(
                    table.question.in_(set(some)), table.answer_type == "verdict"
                )
                first: dict[str, str] = {}
                for key, answer in connection.execute(wanted.order_by(table.id)):
                    first.setdefault(key, answer)
                found.update(first[key] for key in some if key in first)
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

    def lease(
        self,
        keys: Sequence[str],
        *,
        owner: str,
        seconds: float,
        attempts: int | None = None,
        retry_refused: bool = False,
    ) -> Leased:
        """Reserve registered questions for `owner`, except those answered or reserved by a worker that may live.

        A worker of this machine keeps its questions as long as its process is there, whatever the clock says; of others
        the lease must be renewed in time. Questions that the labeler refused, or with `attempts` unreadable replies,
        are given up; with `retry_refused` only for what was said since this ledger was opened.

        Raises:
            ConfigError: if `seconds` is above LONGEST_S.
        """
        leases.check(seconds)
        with self.transaction(writes=True) as connection:
            now, granted, failed = self._lease_time(connection), set[str](), set[str]()
            known = leases.settled(connection, keys, attempts=attempts, since=self._since(retry_refused))
            open_ = sorted({*keys} - {*known.answered, *known.given_up})
            for some in chunks(open_):
                granted |= set(leases.take(connection, some, owner=owner, now=now, expires=now + seconds))
                failed |= leases.failed(connection, some)
        order = tuple(k for k in dict.fromkeys(keys) if k in granted)
        return replace(known, granted=order, failed=frozenset(failed & granted))

    def settled(self, keys: Sequence[str], *, attempts: int | None = None, retry_refused: bool = False) -> Leased:
        """Return which questions need no answer any more, and reserve nothing."""
        with self.transaction(writes=False) as connection:
            return leases.settled(connection, keys, attempts=attempts, since=self._since(retry_refused))

    def renew(self, owner: str, *, seconds: float) -> None:
        """Extend all leases of a worker: its heartbeat."""
        with self.transaction(writes=True) as connection:
            expires = self._lease_time(connection) + seconds
            connection.execute(update(schema.lease).where(schema.lease.c.owner == owner).values(expires=expires))

    def release(self, owner: str) -> None:
        """Give up all leases of a worker."""
        with self.transaction(writes=True) as connection:
            connection.execute(delete(schema.lease).where(schema.lease.c.owner == owner))

    def record(self, replies: Sequence[tuple[str, Reply]], *, owner: str = "") -> list[str]:
        """Commit replies to registered questions, verbatim, and end the owner's leases on them.

        Each question has one answer: a worker that comes late, because its lease ended meanwhile, adds a reply without.
        Returns the questions whose answer came so late.
        """
        table = schema.reply
        with self.transaction(writes=True) as connection:
            now, keys = self._now(connection), sorted({key for key, _ in replies})
            rows, late = list[dict[str, Any]](), list[str]()
            attempts, answered = _replies(connection, keys)
            for key, reply in replies:
                attempts[key] = attempts.get(key, 0) + 1
                if reply.answer is not None and key in answered:
                    reply = replace(reply, answer=None, error="late: it was answered before")
                    late.append(key)
                elif reply.answer is not None:
                    answered.add(key)
                rows.append({"question": key, "attempt": attempts[key], "time": now, **reply_to_row(reply)})
            if rows:
                connection.execute(table.insert(), rows)
            leases.release(connection, owner, [key for key, _ in replies])
        return late

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
        above, found = above or {}, self.standing(keys)
        return freeze(queries, keys, Replies(above.get(key, reply) for key, reply in zip(keys, found, strict=True)))

    def _now(self, connection: Connection) -> float:
        shared = clock_of(connection)
        return self._clock() if shared is None else shared

    def _since(self, retry_refused: bool) -> float:
        return self._opened if retry_refused else -math.inf

    def _lease_time(self, connection: Connection) -> float:
        shared = clock_of(connection)
        return self._since_boot() if shared is None else shared


def _replies(connection: Connection, keys: Sequence[str]) -> tuple[dict[str, int], set[str]]:
    """Return how many replies each question has, and which are answered; writers come in turn, so they count right."""
    table = schema.reply.c
    count, answered = dict[str, int](), set[str]()
    for some in chunks(keys):
        wanted = select(table.question, table.answer_type).where(table.question.in_(some))
        for key, kind in connection.execute(wanted):
            count[key] = count.get(key, 0) + 1
            answered |= {key} if kind != "none" else set()
    return count, answered


def _readable(keys: Sequence[str]) -> Any:
    return select(schema.reply).where(schema.reply.c.question.in_(keys), schema.reply.c.answer_type != "none")


def insert_missing(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet."""
    if rows:
        connection.execute(insert(connection, table).on_conflict_do_nothing(), rows)

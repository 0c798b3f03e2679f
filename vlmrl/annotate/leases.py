"""Who asks which question: reservations that end with a worker's process, or where others cannot see it, with time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, or_, select

from vlmrl.annotate import schema
from vlmrl.annotate.database import chunks, insert
from vlmrl.annotate.record import is_refusal
from vlmrl.annotate.worker import surely_alive, surely_dead
from vlmrl.errors import ConfigError

LONGEST_S = 3600.0
"""Of a lease. One that ends later than this from now was written by a clock that is not ours: it counts for nothing."""


@dataclass(frozen=True)
class Leased:
    """What a worker got of the questions it wanted; the rest is with others."""

    granted: tuple[str, ...]
    answered: tuple[str, ...]
    """Answered already."""
    given_up: tuple[str, ...] = ()
    """Refused by the labeler, or without a readable reply after so many attempts."""
    failed: frozenset[str] = frozenset()
    """Of those granted, the ones that failed before: if they do again, it says nothing new about who answers."""


def check(seconds: float) -> None:
    """Refuse a lease that cannot be told from one by a wrong clock.

    Raises:
        ConfigError: if it is not above 0, or is above LONGEST_S.
    """
    if not 0 < seconds <= LONGEST_S:
        raise ConfigError(f"lease_s is {seconds}; wanted above 0 and at most {LONGEST_S:g}")


def settled(connection: Connection, keys: Sequence[str], *, attempts: int | None, since: float = -math.inf) -> Leased:
    """Return which questions need no answer any more, in the order of the keys.

    Those are given up that the labeler refused, or that have so many unreadable replies, from the time `since` on;
    without `attempts` none is.
    """
    answered, given_up = set[str](), set[str]()
    for some in chunks(sorted(set(keys))):
        answered |= _answered(connection, some)
        if attempts is not None:
            given_up |= {key for key, count in unreadable(connection, some, since).items() if count >= attempts}
            given_up |= {key for key, error in _errors(connection, some, since) if is_refusal(error)}
    given_up -= answered
    order = tuple(dict.fromkeys(keys))
    return Leased((), tuple(k for k in order if k in answered), tuple(k for k in order if k in given_up))


def take(connection: Connection, keys: Sequence[str], *, owner: str, now: float, expires: float) -> list[str]:
    """Reserve what is free, or was reserved by a worker that is gone; one of this machine that lives keeps its own."""
    leased, file = schema.lease.c, connection.dialect.name == "sqlite"
    owners = connection.execute(select(leased.owner).where(leased.question.in_(keys)).distinct()).scalars().all()
    if dead := [owner for owner in owners if surely_dead(owner, same_machine=file)]:
        connection.execute(delete(schema.lease).where(leased.owner.in_(dead)))
    alive = [owner for owner in owners if surely_alive(owner)]
    over = or_(leased.expires < now, leased.expires > now + LONGEST_S)
    statement = insert(connection, schema.lease)
    statement = statement.values([{"question": key, "owner": owner, "expires": expires} for key in keys])
    fresh = statement.on_conflict_do_update(
        index_elements=[leased.question],
        set_={"owner": statement.excluded.owner, "expires": statement.excluded.expires},
        where=or_(leased.owner == owner, and_(over, leased.owner.not_in(alive))),
    )
    return list(connection.execute(fresh.returning(leased.question)).scalars())


def release(connection: Connection, owner: str, keys: Sequence[str]) -> None:
    """End a worker's leases on some questions."""
    for some in chunks(keys):
        connection.execute(delete(schema.lease).where(schema.lease.c.question.in_(some), schema.lease.c.owner == owner))


def unreadable(connection: Connection, keys: Sequence[str], since: float = -math.inf) -> dict[str, int]:
    """Return how many replies to each question could not be read; failed calls do not count."""
    table = schema.reply.c
    wanted = select(table.question, func.count()).where(
        table.question.in_(keys), table.answer_type == "none", table.error == "", table.time >= since
    )
    return {key: count for key, count in connection.execute(wanted.group_by(table.question))}


def failed(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return which questions had a call that failed."""
    return {key for key, _ in _errors(connection, keys, -math.inf)}


def _errors(connection: Connection, keys: Sequence[str], since: float) -> list[tuple[str, str]]:
    table = schema.reply.c
    wanted = select(table.question, table.error).distinct()
    wanted = wanted.where(table.question.in_(keys), table.error != "", table.time >= since)
    return [(key, error) for key, error in connection.execute(wanted)]


def _answered(connection: Connection, keys: Sequence[str]) -> set[str]:
    table = schema.reply.c
    wanted = select(table.question).where(table.question.in_(keys), table.answer_type != "none").distinct()
    return set(connection.execute(wanted).scalars())

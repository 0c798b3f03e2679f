"""Time of the control loop: waiting for a deadline, and being woken when it comes."""

import os
import time


def now() -> float:
    """The monotonic clock, s: setting the computer's time does not move it."""
    return time.monotonic()


def wait_until(moment: float) -> None:
    """Sleep to a moment of `now`."""
    if (seconds := moment - now()) > 0:
        time.sleep(seconds)


def raise_priority(priority: int) -> str:
    """Ask the kernel to run this thread before all ordinary ones; what came of it, in words."""
    if not priority:
        return "not asked for"
    try:
        # Threads and processes that are started from here stay ordinary.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"ordinary ({error})"
    return f"SCHED_FIFO {priority}"

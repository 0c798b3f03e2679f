"""Ctrl-C, SIGTERM, a terminal that goes away: the first lets what is in flight finish, the second does as always."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def first_interrupt(act: Callable[[], None]) -> Generator[None, None, None]:
    """Call `act` at the first of the signals; later ones do what they did before."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Under nohup a terminal that goes away is ignored, and stays so.
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {k: handler for k, handler in handlers.items() if k != signal.SIGHUP or handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def once() -> None:
        restore()
        act()

    for number in before:
        loop.add_signal_handler(number, once)
    try:
        yield
    finally:
        restore()

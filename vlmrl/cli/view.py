"""Shows a labeling job while it runs: a panel that is redrawn in a terminal, a line now and then elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlmrl.annotate import Limits, Tally

_WINDOW_S = 120.0
"""Over which the rate is taken."""
_LINE_S = 30.0
"""Between plain lines."""
_DRAWN = 8
"""Redrawings a second."""


class View:
    """The view of one job; `show` is its `progress`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to standard error unless another console is given."""
        self._name, self._limits, self._clock = name, limits, clock
        self._console = console or Console(file=sys.stderr)
        self._tally = Tally()
        self._past: deque[tuple[float, int]] = deque()
        self._live: Live | None = None
        self._told = clock()
        self._trouble = ""

    def __enter__(self) -> "View":
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.panel, console=self._console, refresh_per_second=_DRAWN, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, tally: Tally) -> None:
        """Take one state of the job."""
        now = self._clock()
        self._tally = tally
        self._past.append((now, tally.asked))
        while len(self._past) > 2 and (now - self._past[0][0] > _WINDOW_S or len(self._past) > 4096):
            self._past.popleft()
        news = tally.trouble != self._trouble and tally.trouble != ""
        self._trouble = tally.trouble
        if self._live is None and (news or now - self._told >= _LINE_S):
            self._told = now
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)

    @property
    def rate(self) -> float:
        """Answers a second, lately."""
        if len(self._past) < 2:
            return 0.0
        (begin, before), (_, now) = self._past[0], self._past[-1]
        return (now - before) / max(self._clock() - begin, 1e-9)

    def line(self) -> str:
        """The state in one line."""
        tally = self._tally
        return f"{self._name}: {tally.done:,} of {tally.total:,}; " + "; ".join(
            f"{name} {value}" for name, value in self._facts().items()
        )

    def panel(self) -> Panel:
        """The state as the terminal shows it."""
        tally = self._tally
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_row(f"{tally.done:,} of {tally.total:,}", ProgressBar(total=max(1, tally.total), completed=tally.done))
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column()
        for name, value in self._facts().items():
            facts.add_row(name, Text(value, style="yellow" if name in ("errors", "waiting") else ""))
        return Panel(Group(bar, facts), title=Text(self._name), title_align="left", padding=(0, 1))

    def _facts(self) -> Mapping[str, str]:
        tally, limits, rate = self._tally, self._limits, self.rate
        cost, left = tally.cost, tally.total - tally.done
        speed = f"{rate:.2f} answers/s" if rate < 10 else f"{rate:.0f} answers/s"
        tokens = cost.prompt_tokens + cost.completion_tokens
        facts = {
            "speed": f"{speed}, {clock_text(tally.seconds)} gone, "
            + (f"about {clock_text(left / rate)} left" if rate > 0 else "time left unknown"),
            "spent": f"${cost.usd:.2f}{_of(limits.max_cost_usd, '$')}, {cost.calls:,} calls{_of(limits.max_calls)}, "
            f"{tokens:,} tokens{_of(limits.max_tokens)}",
            "known before": f"{tally.cached:,}" + (f", by others {tally.elsewhere:,}" if tally.elsewhere else ""),
            "labels": _mix(tally.answers) or "none yet",
        }
        if tally.errors:
            facts["errors"] = ", ".join(f"{kind}: {count:,}" for kind, count in _sorted(tally.errors))
        if tally.trouble:
            facts["waiting"] = tally.trouble
        return facts


def clock_text(seconds: float) -> str:
    """A duration as 1:02:03 or 2:03."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _of(limit: float | None, sign: str = "") -> str:
    return "" if limit is None else f" of {sign}{limit:,g}"


def _mix(answers: Mapping[str, int]) -> str:
    whole = sum(answers.values())
    return ", ".join(f"{name} {100 * count / whole:.0f} %" for name, count in _sorted(answers))


def _sorted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

"""How far work is, for people: lines on stderr, where that is a terminal.

Bars nest: one that is shown within another is a line below it, and goes when it is done. Where nothing is to be shown, nothing
is imported, either.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "hush", "hushed", "length", "track"]

Item = TypeVar("Item")

_lock = threading.RLock()
_open: list[Progress] = []  # the display that bars of this process share, while there is one: a terminal has one last line
_hushed = 0


@contextlib.contextmanager
def hush(wanted: bool = True) -> Iterator[None]:
    """Within it no bar is shown, if that is wanted.

    >>> with hush():
    ...     hushed()
    True
    """
    global _hushed
    with _lock:
        _hushed += wanted
    try:
        yield
    finally:
        with _lock:
            _hushed -= wanted


def hushed() -> bool:
    """Whether a `hush` is around."""
    return _hushed > 0


class Bar:
    """What is done of `total`, and how long it has taken.

    >>> with Bar("measuring", 3, shown=False) as bar:
    ...     bar.advance()

    Args:
        total: None where nobody knows.
        done: of what an earlier run did.
        even: the parts take about as long as each other: then how long the others will take is shown, too.
        shown: False shows nothing, whatever stderr is.
    """

    def __init__(self, name: str, total: int | None = None, done: int = 0, *, even: bool = True, shown: bool = True) -> None:
        self._start = (name, total, done, even)
        self._wanted = shown
        self._progress: Progress | None = None
        self._mine = False
        self._task: Any = None

    def advance(self, by: int = 1) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, by)

    def say(self, text: str) -> None:
        """Another name for what is done now."""
        if self._progress is not None:
            self._progress.update(self._task, description=text)

    def reach(self, done: int, total: int | None) -> None:
        """So much is done, of so much."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    def __enter__(self) -> Bar:
        if not self._wanted or hushed() or not _is_terminal():
            return self
        with _lock:
            self._mine = not _open
            if self._mine:
                _open.append(_display())
                _open[0].start()
            self._progress = _open[0]
            name, total, done, even = self._start
            self._task = self._progress.add_task(name, total=total, completed=done, even=even)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is None:
            return
        with _lock:
            if self._mine:
                _open.clear()
                self._progress.stop()
            else:
                self._progress.remove_task(self._task)
        self._progress = None


def track(items: Iterable[Item], name: str, total: int | None = None, *, shown: bool | None = None) -> Iterator[Item]:
    """The items, with a bar.

    >>> list(track("ab", "reading"))
    ['a', 'b']

    Args:
        total: how many there are, where `items` cannot say.
        shown: None: within another bar only. So what is deep inside tells whoever asked to see how far it is, and nobody else.
    """
    with Bar(name, length(items) if total is None else total, shown=bool(_open) if shown is None else shown) as bar:
        for item in items:
            yield item
            bar.advance()


def length(items: Any, limit: int | None = None) -> int | None:
    """How many there are, of which `limit` are used; None where they cannot say.

    >>> length([1, 2, 3]), length([1, 2, 3], 2), length(iter("ab"))
    (3, 2, None)
    """
    count = len(items) if hasattr(items, "__len__") else None
    return limit if count is None else count if limit is None else min(count, limit)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Remaining(TimeRemainingColumn):
        def render(self, task: Any) -> Text:
            return super().render(task) if task.fields["even"] else Text("")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Remaining())
    # What is printed meanwhile stands above the bars; but what goes to a file must not land in the terminal.
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())

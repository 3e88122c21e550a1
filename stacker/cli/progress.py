"""Bars on a terminal, and the choice between them, lines, JSON events and nothing.

In come events, from whoever works.  Bars are rich's, drawn from within the callback: no thread may
run beside it, since who works forks.  What an event means, the verbs' own modules know.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, ProgressColumn

    from stacker.cli.session import Session

_REDRAW: Final = 0.1  # seconds


class Bars:
    """Bars that are there while the context lasts.

    :param more: columns behind the usual ones.
    """

    def __init__(self, *more: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            *more,
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: object) -> None:
        """Take an event in, and draw if it is time."""
        self._take(event)
        if (now := time.monotonic()) - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def _take(self, event: object) -> None:
        raise NotImplementedError


@contextmanager
def reported(
    session: Session,
    *,
    bars: Callable[[], Bars],
    tell: Callable[[object, Session], None],
    print_event: Callable[[object], None],
) -> Iterator[Callable[[object], None]]:
    """Give what shall be called with events: the one of three ways that the session wants.

    :param tell: says an event in a line.
    :param print_event: prints it as a document.
    """
    if session.json:
        yield print_event if session.verbosity >= 0 else _ignore
    elif session.draws:
        with bars() as drawn:
            yield drawn.show
    else:
        yield lambda event: tell(event, session)


def _ignore(event: object) -> None:
    del event

"""The live line of the foreground on a terminal, with the log above it; by rich."""

import contextlib
import sys
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text


class LiveLine:
    """
    One line at the bottom of the terminal; *line* gives it for so many columns. A context manager.

    What is written to standard error meanwhile goes above it, where that is the same terminal.
    """

    def __init__(self, line: Callable[[int | None], str]) -> None:
        self._line = line
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._console = Console()
        # No thread of its own: refresh() is called by who waits anyway.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=on_terminal)

    def __enter__(self) -> "LiveLine":
        with contextlib.suppress(OSError):
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone shows nothing
            self._live.stop()

    def refresh(self) -> bool:
        """Show the line as it is now; true, as it may be shown again."""
        with contextlib.suppress(OSError):
            # One column less: some terminals go on in the next line once the last column is filled.
            line = self._line(max(1, self._console.width - 1))
            self._live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)
        return True

"""The live line of the foreground on a terminal, and the log above it; by rich."""

import contextlib
import logging
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text


class LiveLine:
    """
    One line at the bottom of the terminal; *line* gives it for so many columns. A context manager.

    Log lines of *handler* go above it, where they go to the same terminal.
    """

    def __init__(self, line: Callable[[int | None], str], handler: logging.Handler) -> None:
        self._line = line
        self._handler = handler
        self._stream: TextIO | None = None
        on_terminal = sys.stderr.isatty()
        self._console = Console()
        # No thread of its own: refresh() is called by who waits anyway.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=on_terminal)

    def __enter__(self) -> "LiveLine":
        stderr = sys.stderr
        with contextlib.suppress(OSError):
            self._live.start()
        # A log that goes elsewhere stays there.
        if isinstance(self._handler, logging.StreamHandler) and self._handler.stream is stderr:
            self._stream = self._handler.setStream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._handler, logging.StreamHandler) and self._stream is not None:
            self._handler.setStream(self._stream)
        with contextlib.suppress(OSError):  # a terminal that has gone shows nothing
            self._live.stop()

    def refresh(self) -> bool:
        """Show the line as it is now; true, as it may be shown again."""
        with contextlib.suppress(OSError):
            # One column less: some terminals go on in the next line once the last column is filled.
            line = self._line(max(1, self._console.width - 1))
            self._live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)
        return True

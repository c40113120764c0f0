"""The live line of the foreground on a terminal, with the log above it; by rich."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text


class LiveLine:
    """
    One line at the bottom of the terminal; *line* gives it for so many columns. A context manager, for the main thread.

    What is written to standard error meanwhile goes above it, where that is the same terminal. Ctrl-Z leaves the
    terminal to the shell; the line is back once the program is in the foreground again, and only then.
    """

    def __init__(self, line: Callable[[int | None], str]) -> None:
        self._line = line
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._console = Console()
        # No thread of its own: refresh() is called by who waits anyway.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=on_terminal)
        self._drawing = False
        self._stop_asked = False

    def __enter__(self) -> "LiveLine":
        self._show()
        # A shell without job control may have it ignored: that stays so.
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._suspend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.getsignal(signal.SIGTSTP) == self._suspend:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._hide()

    def refresh(self) -> bool:
        """Show the line as it is now; true, as it may be shown again."""
        self._drawing = True
        try:
            if self._in_foreground():
                self._show()
                # One column less: some terminals go on in the next line once the last column is filled.
                line = self._line(max(1, self._console.width - 1))
                with contextlib.suppress(OSError):
                    self._live.update(Text(line, no_wrap=True, overflow="crop"), refresh=True)
            else:
                self._hide()
        finally:
            self._drawing = False
        if self._stop_asked:
            self._suspend()
        return True

    def _show(self) -> None:
        with contextlib.suppress(OSError):
            self._live.start()

    def _hide(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that has gone shows nothing
            self._live.stop()

    @staticmethod
    def _in_foreground() -> bool:
        """Whether the terminal is this program's: after bg it is the shell's, which a line would write over."""
        try:
            return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True  # not the terminal that controls it: no shell stops it there

    def _suspend(self, _number: int = signal.SIGTSTP, _frame: FrameType | None = None) -> None:
        """Stop as Ctrl-Z asks, with the cursor shown, and draw the line again once the program goes on."""
        self._stop_asked = self._drawing
        if self._drawing:  # refresh() does it at its end: half a line would be left otherwise
            return
        self._hide()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this thread: one to the process may come only after the handler is back.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self.refresh()

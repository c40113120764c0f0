"""
Every error that is raised on purpose.

The program prints each of these as one line; any other exception is a bug and
keeps its traceback. Each also descends from the built-in that a caller would
expect.
"""

import errno

TYPE_CHECKING = False  # typing itself is half the time of --help
if TYPE_CHECKING:
    from collections.abc import Iterable

    from powermeter.writers.answers import Verdict


def printable(text: str) -> str:
    r"""
    *text* for a terminal: unprintable characters, which a terminal obeys, are shown as escapes; lines stay lines.

    >>> printable("a\x1b[2J\nb")
    'a\\x1b[2J\nb'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class PowerError(Exception):
    """Base of all; its text is one line: what happened, to what, what to do. It may contain other users' file names."""

    def __str__(self) -> str:
        return printable(super().__str__())


class SettingsError(PowerError, ValueError):
    """The settings are wrong; *mistakes* has one line per mistake."""

    def __init__(self, path: str, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(f"{path}: {mistake}" for mistake in mistakes))


class UnsafePathError(PowerError, PermissionError):
    """A path leads over something that others may change, or is a file that others may write."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPERM, printable(text).replace("\n", r"\n"))

    def __str__(self) -> str:
        return str(self.strerror)


class BoardError(PowerError, RuntimeError):
    """The pins can't be used."""


class TakenError(BoardError):
    """Another program or a driver uses the pins; *by_power*: whether it is another instance of this program."""

    def __init__(self, text: str, *, by_power: bool) -> None:
        self.by_power = by_power
        super().__init__(text)


class NoBoardError(BoardError):
    """The library for the pins, or something that it needs from the machine, is missing: another may work."""


class JournalError(PowerError, OSError):
    """The journal can't be used."""


class DamagedError(JournalError):
    """The journal's file is damaged: whatever is readable can be saved."""


class StoppedError(JournalError):
    """The program was stopped while it was opening the journal."""


class ProcessError(PowerError, RuntimeError):
    """Starting, stopping or asking the running program failed."""


class AlreadyRunningError(ProcessError):
    """Another process holds the lock of the pidfile or of DATA_DIR."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        super().__init__(f"already running, pid {pid}")


class ForbiddenError(ProcessError, PermissionError):
    """The user may not do this to the running program."""


class DeliveryError(PowerError, OSError):
    """A writer could not deliver a batch; as far as is known, none of it was stored."""


class UnreachableError(DeliveryError, ConnectionError):
    """No answer: refused, timed out, unknown host, bad certificate, disk."""


class LocalError(UnreachableError):
    """Something on this machine is missing or fails: a disk, a file. It may come back at any moment."""


class AnsweredError(DeliveryError):
    """
    The service answered, but not with success.

    *status* is its HTTP status, *retry_after_s* the pause that it asks for, and
    *verdict* what the answer means; None leaves that to the status. *refused*:
    the places in the batch, from 0 on, of the pulses that the answer names as
    refused; whether the others were stored is not known.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        retry_after_s: float = 0.0,
        *,
        verdict: "Verdict | None" = None,
        refused: "Iterable[int]" = (),
    ) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        self.verdict = verdict
        self.refused = frozenset(refused)
        super().__init__(f"answered {status}: {reason}" if reason else f"answered {status}")


class MisdirectedError(DeliveryError):
    """What answered is not the service that the settings name."""


class BrokerError(PowerError, ConnectionError):
    """The MQTT broker can't be used: away, refusing, or used by another monitor under the same topic."""


def why(error: OSError) -> str:
    """The text of *error*, which is never empty."""
    return error.strerror or str(error) or type(error).__name__

"""Which servers are trusted over TLS: the key ``verify_ssl`` of writers and views, and the context made from it."""

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from powermeter.errors import UnsafePathError
from powermeter.safe_path import read_code

if TYPE_CHECKING:
    import ssl

#: How much of a file of CA certificates is read at most, in bytes: Debian's own bundle has 230,000.
MAX_CERTIFICATES = 5_000_000


def verify_ssl(found: Any) -> bool | str:
    """
    True, False, or the path of a file of CA certificates; not a relative one, because a daemon changes its directory.

    A missing file may be on a disk that is not mounted yet: the writer or view waits for it.
    """
    if isinstance(found, bool):
        return found
    allowed = "True, False or the absolute path of a file of CA certificates (PEM)"
    path = os.path.expanduser(found) if isinstance(found, str) else ""
    if not os.path.isabs(path):
        raise ValueError(allowed)
    try:
        with contextlib.suppress(FileNotFoundError):
            context(path)
    except UnsafePathError as error:
        raise ValueError(f"{allowed} that nobody else may write: {error}") from None
    except (OSError, ValueError):
        raise ValueError(allowed) from None
    return path


def context(verify: bool | str) -> "ssl.SSLContext":
    """
    What TLS trusts, for a checked ``verify_ssl``: the system's CAs for True, anybody for False, or the CAs in a file.

    Raises :exc:`OSError` if that file can't be read, has no certificates, or may
    be written by others.
    """
    import ssl  # it takes 6 MiB, so import it only if TLS is used

    made = ssl.create_default_context(cadata=_certificates(verify) if isinstance(verify, str) else None)
    if isinstance(verify, str):
        # From Python 3.13 on, the default refuses CAs that lack what RFC 5280 requires, like many home-made ones.
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _certificates(path: str) -> str:
    """The PEM text in the file *path*, which is checked like code: it decides who may receive a password."""
    text = read_code(path, MAX_CERTIFICATES).decode("ascii", "ignore")  # what is not ASCII is a comment
    if "-----BEGIN" not in text:
        raise OSError(errno.EINVAL, "the file contains none")
    return text

"""The library's signal handlers among others: keeping them in front, and there to the very end."""

from __future__ import annotations

from bufpool._native import lib
from bufpool.errors import failure


def install_handlers() -> None:
    """Puts the library's handlers of SIGBUS and SIGSEGV in front again, as opening a pool does.

    For a program in which something has installed a handler since, or has put back what was there before us, as
    faulthandler.disable() does if faulthandler was enabled before the first pool was opened.

    Raises UnsupportedError (something keeps the signals to itself), SystemCallError.
    """
    code = lib.bufpool_install_handlers()
    if code < 0:
        raise failure(code)

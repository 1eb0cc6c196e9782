"""What the descriptors of a process are: its tables and records are found among them, from outside."""

from __future__ import annotations

import contextlib
import os

from bufpool.errors import BufpoolError

WHO_CAN = "root can, with CAP_SYS_PTRACE"


def descriptors(pid: int) -> dict[str, str]:
    """The descriptors of a process, /proc/PID/fd/N, and what each is. Raises BufpoolError."""
    folder = f"/proc/{pid}/fd"
    try:
        numbers = sorted(os.listdir(folder), key=int)  # noqa: PTH208
    except FileNotFoundError:
        raise BufpoolError(f"there is no process {pid}") from None
    except PermissionError:
        raise BufpoolError(
            f"process {pid} may not be looked at: it is another user's, or not dumpable; {WHO_CAN}"
        ) from None
    except OSError as error:
        raise BufpoolError(f"process {pid} cannot be looked at: {error.strerror}") from None
    found = {}
    for number in numbers:
        with contextlib.suppress(OSError):  # closed meanwhile
            found[f"{folder}/{number}"] = os.readlink(f"{folder}/{number}")  # noqa: PTH115 (need not be a path)
    return found

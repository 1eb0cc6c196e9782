"""mount(2) and umount2(2), which Python lacks, for hugetlbfs; and whether this process may call them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SOURCE = "bufpool"  # what mountinfo names as the device: says who mounted it
FLAGS = {"nosuid": 2, "nodev": 4, "noexec": 8}

_DETACH, _NO_FOLLOW = 2, 8
_CAP_SYS_ADMIN = 21


def mount(path: str, options: str) -> int:
    """Mounts a hugetlbfs with FLAGS; 0 or errno."""
    call = ctypes.CDLL(None, use_errno=True).mount
    call.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    failed = call(SOURCE.encode(), os.fsencode(path), b"hugetlbfs", sum(FLAGS.values()), options.encode())
    return ctypes.get_errno() if failed else 0


def unmount(path: str, *, detach: bool = False) -> int:
    """Takes the last mount at path away, detached also when it is in use; 0 or errno."""
    call = ctypes.CDLL(None, use_errno=True).umount2
    call.argtypes = [ctypes.c_char_p, ctypes.c_int]
    failed = call(os.fsencode(path), _NO_FOLLOW | (_DETACH if detach else 0))
    return ctypes.get_errno() if failed else 0


def privileged() -> bool:
    """Whether this process has CAP_SYS_ADMIN, or it cannot be known. In a user namespace that is not enough."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return True
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "-1")
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)

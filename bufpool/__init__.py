"""bufpool: a buffer pool whose holes trap, with a report that names the bug.

Pool reserves the addresses and hands out Pages. A stray access is raised as StrayAccessError; catch_faults() collects,
check() asks. capabilities() says what works here, bufpool.sqlite puts SQLite's own pages into pools, mount() gives one
application huge pages of its own.

POISON is the byte, an int, that a stray read sees wherever it is not raised on the spot: through a view, and inside
catch_faults().
"""

import importlib
import os
from typing import TYPE_CHECKING

from bufpool._interpreter import refuse_subinterpreters

refuse_subinterpreters()

from bufpool._native import ffi, lib  # noqa: E402 (native code must not be loaded before the refusal)
from bufpool.adoption import adopt  # noqa: E402
from bufpool.audit import ChangedPage  # noqa: E402
from bufpool.borrowed import locate  # noqa: E402
from bufpool.capabilities import Capabilities, Capability, capabilities  # noqa: E402
from bufpool.errors import (  # noqa: E402
    ArgumentError,
    BufpoolError,
    PageStateError,
    PoolClosedError,
    PoolExhaustedError,
    SQLiteStateError,
    StrayAccessError,
    SystemCallError,
    TransferError,
    UnsupportedError,
)
from bufpool.explanation import Explanation, StrayPage, explain  # noqa: E402
from bufpool.faults import catch_faults, check  # noqa: E402
from bufpool.frames import Frame, Frames  # noqa: E402
from bufpool.handlers import install_handlers  # noqa: E402
from bufpool.hugepages import HugepageMount  # noqa: E402
from bufpool.inspection import Findings, WrongPage  # noqa: E402
from bufpool.mounting import mount, unmount  # noqa: E402
from bufpool.options import configure, configure_from_environment  # noqa: E402
from bufpool.page import Location, Page  # noqa: E402
from bufpool.pages_io import Transfer  # noqa: E402
from bufpool.pins import Pin, Pins  # noqa: E402
from bufpool.pool import Pool  # noqa: E402
from bufpool.report import FaultReport, PageEvent, PageHistory, PinHistory  # noqa: E402
from bufpool.sharing import PoolHandle  # noqa: E402
from bufpool.stats import PoolStats  # noqa: E402

if TYPE_CHECKING:
    from types import ModuleType

    from bufpool import sqlite

__version__ = ffi.string(lib.bufpool_version()).decode()
POISON = lib.BUFPOOL_POISON
FRESH = lib.BUFPOOL_FRESH
SCRUBBED = lib.BUFPOOL_SCRUBBED

__all__ = [
    "FRESH",
    "POISON",
    "SCRUBBED",
    "ArgumentError",
    "BufpoolError",
    "Capabilities",
    "Capability",
    "ChangedPage",
    "Explanation",
    "FaultReport",
    "Findings",
    "Frame",
    "Frames",
    "HugepageMount",
    "Location",
    "Page",
    "PageEvent",
    "PageHistory",
    "PageStateError",
    "Pin",
    "PinHistory",
    "Pins",
    "Pool",
    "PoolClosedError",
    "PoolExhaustedError",
    "PoolHandle",
    "PoolStats",
    "SQLiteStateError",
    "StrayAccessError",
    "StrayPage",
    "SystemCallError",
    "Transfer",
    "TransferError",
    "UnsupportedError",
    "WrongPage",
    "adopt",
    "capabilities",
    "catch_faults",
    "check",
    "configure",
    "configure_from_environment",
    "explain",
    "install_handlers",
    "locate",
    "mount",
    "sqlite",
    "unmount",
]


if "BUFPOOL_TESTING" in os.environ:  # a child of a test that is watched: its pools are, too
    importlib.import_module("bufpool.testing").watch_child(os.environ["BUFPOOL_TESTING"])


def __getattr__(name: str) -> "ModuleType":
    """bufpool.sqlite is imported when it is first used: a Python may lack sqlite3."""
    if name == "sqlite":
        return importlib.import_module("bufpool.sqlite")
    raise AttributeError(f"module 'bufpool' has no attribute {name!r}")

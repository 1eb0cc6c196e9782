"""The groups of rows, in the order of the tables, each with the files it comes from and the seconds it may take.

A new file of rows needs a line here; the budgets together are the ten minutes that `make bench` may take.
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    name: str
    budget: int  # seconds
    files: tuple[str, ...]


GROUPS = (
    Group("Resident pages", 150, ("test_resident", "test_huge_access")),
    Group("Fill and free", 15, ("test_fill_free", "test_lag")),
    Group("Stage, publish, withdraw, replace", 30, ("test_frames", "test_frame_costs")),
    Group("Eviction and scan", 150, ("test_eviction",)),
    Group("Files", 12, ("test_io",)),
    Group("Threads", 30, ("test_threads",)),
    Group("Pages of 2 MiB", 20, ("test_huge_fill",)),
    Group("Mapping operations", 12, ("test_mapping_ops",)),
    Group("Opening", 12, ("test_open",)),
    Group("Processes and fork", 8, ("test_processes", "test_fork")),
    Group("Reports and provenance", 8, ("test_provenance",)),
    Group("Sections and pins", 60, ("test_sections", "test_pins")),
    Group("SQLite", 60, ("test_sqlite",)),
    Group("Python", 15, ("test_python",)),
    Group("Traps", 15, ("test_traps",)),
)
OTHERS = Group("Others", 10, ())  # of files that are in no group
BUDGET = 600


def of(file: str) -> Group:
    """The group of a file of rows, given by its name without ".py"."""
    return next((group for group in GROUPS if file in group.files), OTHERS)

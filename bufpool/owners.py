"""Owners as people write them: "postgres", "postgres:dba", 26, "26:26"."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

from bufpool.arguments import integer_argument
from bufpool.errors import ArgumentError

_LIMIT = 2**32 - 1  # which itself means "nobody" to the kernel


def parse_owner(owner: str | int | None) -> tuple[int, int]:
    """The uid and gid; None is the caller. Without a group it is the user's own. Raises ArgumentError, TypeError."""
    if owner is None:
        return os.geteuid(), os.getegid()
    if not isinstance(owner, str):
        uid = _in_range(integer_argument(owner, "owner"), owner)
        return uid, _own_group(uid, owner)
    user, colon, group = owner.partition(":")
    uid = _number(user, lambda name: pwd.getpwnam(name).pw_uid, owner, "user")
    if not colon:
        return uid, _own_group(uid, owner)
    return uid, _number(group, lambda name: grp.getgrnam(name).gr_gid, owner, "group")


def name_of(uid: int) -> str:
    """The user's name; "no name" where the user database has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "no name"


def _number(name: str, lookup: Callable[[str], int], owner: str, what: str) -> int:
    try:
        return lookup(name)
    except (KeyError, ValueError):
        # As with chown, a name may be all digits, so numbers come second.
        if name.isascii() and name.isdigit():
            return _in_range(int(name), owner)
    raise ArgumentError(
        f"owner {owner!r} must be 'user', 'user:group', a uid or 'uid:gid': there is no {what} {name!r} here"
    )


def _in_range(number: int, owner: str | int) -> int:
    if not 0 <= number < _LIMIT:
        raise ArgumentError(f"owner {owner!r} must be numbered from 0 to {_LIMIT - 1}")
    return number


def _own_group(uid: int, owner: str | int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise ArgumentError(f"owner {owner!r} must name a group too, as '{uid}:gid': uid {uid} has no name") from None

"""PoolHandle: what another process needs to attach to a pool, on its way there."""

from __future__ import annotations

import array
import contextlib
import functools
import os
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from bufpool._native import ffi, lib
from bufpool.arguments import integer_argument
from bufpool.errors import ArgumentError, failure

if TYPE_CHECKING:
    from bufpool._native import CData

_MESSAGE = b"bufpool\1"  # what goes with the descriptors: version 1
_OTHER_ROOM = 256  # for what else the socket has been told to deliver, such as SO_PASSCRED


@attrs.frozen(eq=False)
class PoolHandle:
    """Two descriptors, by which Pool.attach() finds the pool. They are closed by close(), a with block, or in the end.

    A handle goes to other processes as an argument of multiprocessing (spawn, fork and forkserver; queues and pipes,
    too), or over a Unix socket by send() and receive(). What is put in a queue is for one process, and holds two more
    descriptors here until that takes it out. Whoever has a handle can reach every page without any trap: hand it to
    your own processes only. It keeps the pool's memory, not the pool: that is closed when its opener closes it. A
    forked child has descriptors of its own. Methods may be called from any thread, but for close() while another runs.
    """

    memory: int  # descriptors; -1 when closed
    tables: int

    @classmethod
    def from_fds(cls, memory: int, tables: int) -> PoolHandle:
        """A handle of two descriptors that came by a way of your own, and are the handle's from here on.

        Whether they are those of a pool shows when somebody attaches. Raises ArgumentError (not open), TypeError.
        """
        fds = [integer_argument(fd, "a descriptor") for fd in (memory, tables)]
        for fd in fds:
            try:
                os.fstat(fd)
            except (OSError, OverflowError):
                raise ArgumentError(
                    f"descriptor {fd} is not open: pass the two that the pool's process has sent"
                ) from None
        if fds[0] == fds[1]:
            raise ArgumentError(f"memory and tables are one descriptor, {fds[0]}: a handle has two")
        _register()
        return cls(*fds)

    @classmethod
    def receive(cls, sock: socket.socket) -> PoolHandle:
        """Takes a handle that the process at the other end has sent with send(). Waits for it as the socket does.

        Raises ArgumentError (not a Unix socket; something else came, or nothing), and what the socket raises.
        """
        _check_socket(sock)
        # One sendmsg() arrives as one piece, on a stream too, since it has descriptors. Not by socket.recv_fds(), which
        # drops its flags: other threads may start programs.
        room = socket.CMSG_SPACE(2 * array.array("i").itemsize) + _OTHER_ROOM
        data, messages, flags, _ = sock.recvmsg(len(_MESSAGE), room, socket.MSG_CMSG_CLOEXEC)
        fds = _descriptors(messages)
        if data == _MESSAGE and len(fds) == 2 and not flags & socket.MSG_CTRUNC:
            return cls.from_fds(*fds)
        _close(fds)
        if data == _MESSAGE:
            raise ArgumentError(
                f"{len(fds)} of a handle's two descriptors arrived: this process may have no more open "
                "(RLIMIT_NOFILE, ulimit -n), or the sender had closed them"
            )
        came = f"{data!r} came" if data else "the other end has closed it"
        raise ArgumentError(f"no handle arrived at the socket, but {came}: the other process has to call handle.send()")

    def send(self, sock: socket.socket) -> None:
        """Sends it to the process at the other end of a Unix socket, which calls PoolHandle.receive(). Stays open here.

        For C: one message of the eight bytes "bufpool\\1" with the two descriptors, memory first, by SCM_RIGHTS.

        Raises ArgumentError (closed; not a Unix socket), and what the socket raises.
        """
        self._check_open()
        _check_socket(sock)
        socket.send_fds(sock, [_MESSAGE], [self.memory, self.tables])

    @property
    def closed(self) -> bool:
        """Whether the descriptors have been closed."""
        return self.memory < 0

    def close(self) -> None:
        """Closes the descriptors; pools that were attached by them go on. Does nothing again."""
        fds = self.memory, self.tables
        object.__setattr__(self, "memory", -1)
        object.__setattr__(self, "tables", -1)
        for fd in fds:
            if fd >= 0:
                with contextlib.suppress(OSError):  # the program has closed it
                    os.close(fd)

    def native(self) -> CData:
        """The handle for C, which does not take over the descriptors; the library's own use."""
        self._check_open()
        return ffi.new("bufpool_handle *", (ffi.sizeof("bufpool_handle"), self.memory, self.tables))

    def _check_open(self) -> None:
        if self.closed:
            raise ArgumentError("the handle is closed: ask the pool for another, by pool.handle()")

    def __enter__(self) -> PoolHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:  # what copy, deepcopy and pickle call; multiprocessing calls _reduce()
        raise TypeError(
            "a PoolHandle holds descriptors, which only multiprocessing can pickle, on the way to a process of its "
            "own: make it an argument of that, or use handle.send() and PoolHandle.receive()"
        )


def handle_of(pool: CData) -> PoolHandle:
    """A new handle of a native pool."""
    made = ffi.new("bufpool_handle *", (ffi.sizeof("bufpool_handle"), -1, -1))
    code = lib.bufpool_share(pool, made)
    if code:
        raise failure(code)
    return PoolHandle.from_fds(made.memory, made.tables)


def _descriptors(messages: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _check_socket(sock: Any) -> None:
    if not isinstance(sock, socket.socket):
        raise TypeError(f"sock must be a socket.socket, not {type(sock).__name__}")
    if sock.family != socket.AF_UNIX:
        raise ArgumentError(f"the socket is of family {sock.family.name}: only a Unix socket can pass descriptors on")


# ---- multiprocessing -------------------------------------------------------------------------------------------------


@functools.cache
def _register() -> None:
    """Tells multiprocessing how a handle is pickled: done by the first handle, as importing it takes its time."""
    from multiprocessing import reduction

    reduction.register(PoolHandle, _reduce)


def _reduce(handle: PoolHandle) -> tuple[Any, tuple[Any, Any]]:
    from multiprocessing import reduction

    handle._check_open()  # noqa: SLF001 (of this module)
    return _rebuild, (reduction.DupFd(handle.memory), reduction.DupFd(handle.tables))


def _rebuild(memory: Any, tables: Any) -> PoolHandle:
    fds: list[int] = []
    try:
        for duplicate in (memory, tables):
            fds.append(duplicate.detach())
            os.set_inheritable(fds[-1], False)  # multiprocessing leaves them to programs that the worker runs
        return PoolHandle.from_fds(*fds)
    except (EOFError, FileNotFoundError, ConnectionError):
        _close(fds)
        raise ArgumentError(
            "the process that has pickled the handle hands it over no more: it has ended, or the same pickle was "
            "unpickled before. Each process needs one of its own"
        ) from None
    except BaseException:
        _close(fds)
        raise


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

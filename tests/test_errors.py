"""The classes of errors and the sentences in them."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bufpool
from bufpool._native import lib
from bufpool.errors import failure


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (bufpool.ArgumentError, ValueError),
        (bufpool.PageStateError, ValueError),
        (bufpool.PoolClosedError, ValueError),
        (bufpool.PoolExhaustedError, MemoryError),
        (bufpool.SystemCallError, OSError),
        (bufpool.UnsupportedError, OSError),
        (bufpool.SQLiteStateError, RuntimeError),
        (bufpool.StrayAccessError, Exception),
    ],
)
def test_every_error_is_a_bufpool_error(kind: type[Exception], other: type[Exception]) -> None:
    assert issubclass(kind, bufpool.BufpoolError)
    assert issubclass(kind, other)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (lib.BUFPOOL_EARGUMENT, bufpool.ArgumentError),
        (lib.BUFPOOL_EEXHAUSTED, bufpool.PoolExhaustedError),
        (lib.BUFPOOL_ESTATE, bufpool.PageStateError),
        (lib.BUFPOOL_EUNSUPPORTED, bufpool.UnsupportedError),
        (lib.BUFPOOL_ECLOSED, bufpool.PoolClosedError),
        (-errno.ENOMEM, bufpool.PoolExhaustedError),
        (-errno.EMFILE, bufpool.SystemCallError),
    ],
)
def test_codes_become_errors(code: int, kind: type[Exception]) -> None:
    error = failure(code, "the sentence")
    assert type(error) is kind
    assert "the sentence" in str(error)


def test_system_errors_have_errno() -> None:
    error = failure(-errno.EMFILE, "no")
    assert isinstance(error, OSError)
    assert error.errno == errno.EMFILE


def test_a_system_error_says_its_reason_once(any_pool: bufpool.Pool) -> None:
    with pytest.raises(bufpool.SystemCallError) as caught:
        bufpool.Pool(any_pool.capacity, log="/nowhere/at/all")
    assert str(caught.value).count("No such file or directory") == 1
    assert str(failure(-errno.EMFILE, "it failed")) == "[Errno 24] it failed (Too many open files)"


def test_an_error_that_is_raised_late_says_so(any_pool: bufpool.Pool, in_thread: Callable[..., Any]) -> None:
    note = "(made earlier in this thread through a view, raised at this call)"

    def stray() -> None:
        assert any_pool.page(3).buffer[5] == bufpool.POISON

    for call in (bufpool.check, any_pool.allocate, lambda: any_pool.free_many(np.array([1])), any_pool.close):
        stray() if call != any_pool.close else in_thread(stray)
        with pytest.raises(bufpool.StrayAccessError) as caught:
            call()
        of_ended = note.replace("in this thread ", "")
        last = str(caught.value).splitlines()[-1]
        assert last == (note if call != any_pool.close else of_ended)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_error_that_is_raised_right_there_does_not(any_pool: bufpool.Pool) -> None:
    hole = any_pool.page(3)
    for call in (lambda: hole[5], lambda: any_pool.allocate(hole.buffer), lambda: any_pool.free_many(hole.array("u8"))):
        with pytest.raises(bufpool.StrayAccessError) as caught:
            call()
        assert "earlier" not in str(caught.value)


def test_sentences_hold_the_values(any_pool: bufpool.Pool) -> None:
    with pytest.raises(bufpool.ArgumentError, match=r"4097.*4096"):
        any_pool.allocate(bytes(4097))
    page = any_pool.allocate()
    page.free()
    with pytest.raises(bufpool.PageStateError, match=f"{page.number}"):
        page.free()


def test_stray_access_error_holds_every_report(any_pool: bufpool.Pool) -> None:
    view = any_pool.page(3).buffer
    other = any_pool.page(4).buffer
    assert view[5] == other[6] == bufpool.POISON
    with pytest.raises(bufpool.StrayAccessError) as caught:
        bufpool.check()
    assert caught.value.report == caught.value.reports[0]
    assert [(report.page, report.offset) for report in caught.value.reports] == [(3, 5), (4, 6)]
    assert str(caught.value.report) in str(caught.value)
    assert "1 more" in str(caught.value)


def test_stray_access_error_can_be_pickled(any_pool: bufpool.Pool) -> None:
    with pytest.raises(bufpool.StrayAccessError) as caught:
        any_pool.page(3)[5]
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.report == caught.value.report
    assert str(copy) == str(caught.value)

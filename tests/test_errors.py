"""The classes of errors and the sentences in them."""

from __future__ import annotations

import errno
import pickle

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

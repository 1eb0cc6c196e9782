"""Frames: pool.stage(), publish(), withdraw(), unstage() and replace()."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import bufpool


@pytest.fixture(params=["anon", "shared"])
def pool(request: pytest.FixtureRequest) -> Iterator[bufpool.Pool]:
    with bufpool.Pool(64 * 4096, memory=request.param) as opened:
        yield opened


def test_a_frame_is_filled_and_appears_whole(pool: bufpool.Pool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"".join(bytes([n]) * 4096 for n in range(1, 5)))
    frames = pool.stage(4)
    with path.open("rb") as file:
        assert os.preadv(file.fileno(), [frame.buffer for frame in frames], 0) == 4 * 4096
    pool.publish(frames, [9, 3, 4, 5])
    assert [bytes(pool.page(number)) for number in (9, 3, 4, 5)] == [bytes([n]) * 4096 for n in range(1, 5)]
    assert pool.stats().staged == 0
    assert pool.stats().frames_moved + pool.stats().frames_copied == 4


def test_what_is_withdrawn_traps_and_is_in_the_frame(pool: bufpool.Pool) -> None:
    numbers = pool.allocate_many(3, b"".join(bytes([n]) * 4096 for n in range(7, 10)))
    frames = pool.withdraw(numbers)
    assert [bytes(frame.buffer[:2]) for frame in frames] == [b"\7\7", b"\10\10", b"\11\11"]
    for number in numbers.tolist():
        assert pool.state(number) == "evicted"
        with pytest.raises(bufpool.StrayAccessError):
            pool.page(number)[0]
    frames[0].array(np.uint32)[:] = 5
    pool.publish(frames[:1], numbers[2:])
    assert pool.page(int(numbers[2])).array(np.uint32)[1023] == 5
    pool.unstage(frames[1:])
    assert pool.stats().staged == 0


def test_a_victims_content_becomes_another_pages(pool: bufpool.Pool) -> None:
    victim = pool.allocate(b"content")
    pool.replace(victim, 30)
    assert (victim.state, pool.page(30)[:7]) == ("evicted", b"content")
    pool.replace(30, victim)
    assert (victim[:7], pool.state(30)) == (b"content", "evicted")


def test_a_wrong_batch_is_refused_whole(pool: bufpool.Pool) -> None:
    frames = pool.stage(2)
    taken = pool.allocate(b"here")
    with pytest.raises(bufpool.PageStateError, match="cannot publish page"):
        pool.publish(frames, [5, taken])
    with pytest.raises(bufpool.ArgumentError, match="2 frames for 1 pages"):
        pool.publish(frames, [5])
    with pytest.raises(bufpool.ArgumentError, match="twice"):
        pool.publish([frames[0], frames[0]], [5, 6])
    with pytest.raises(TypeError, match="a frame is a Frame, not int"):
        pool.publish([7], [5])  # type: ignore[list-item]
    with pytest.raises(bufpool.PageStateError, match="cannot withdraw page 5"):
        pool.withdraw([taken, 5])
    with pytest.raises(bufpool.PageStateError):
        pool.replace(taken, taken)
    with pytest.raises(bufpool.ArgumentError, match="count -1"):
        pool.stage(-1)
    assert (pool.state(5), taken[:4], pool.stats().staged) == ("unallocated", b"here", 2)
    pool.publish(frames, [5, 6])
    with pytest.raises(bufpool.ArgumentError, match="no staged frame"):
        pool.publish(frames, [7, 8])
    with pytest.raises(bufpool.ArgumentError, match="not staged here"):
        frames[0].buffer  # noqa: B018


def test_frames_of_another_pool_are_refused(pool: bufpool.Pool) -> None:
    with bufpool.Pool(4096) as other:
        staged = other.stage(1)
        for given in (staged, list(staged)):
            with pytest.raises(bufpool.ArgumentError, match="pool"):
                pool.publish(given, [0])


def test_views_end_with_the_frame(pool: bufpool.Pool) -> None:
    frames = pool.stage(2)
    view, array = frames[0].buffer, frames[1].array()
    part = memoryview(view)[:8]
    with pytest.raises(BufferError, match="in use"):
        pool.publish(frames, [0, 1])
    del part
    with pytest.raises(BufferError, match="in use"):
        pool.unstage(frames)
    with pytest.raises(BufferError, match="in use"):
        pool.close()
    array[0] = 9
    del array
    pool.publish(frames, [0, 1])
    assert pool.page(1)[0] == 9
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_a_closed_pool_has_no_frames() -> None:
    with bufpool.Pool(4096) as pool:
        frames = pool.stage(1)
        view = frames[0].buffer
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(bufpool.PoolClosedError):
        frames[0].buffer  # noqa: B018
    for call in (lambda: pool.stage(1), lambda: pool.unstage(frames), lambda: pool.replace(0, 0)):
        with pytest.raises(bufpool.PoolClosedError):
            call()


def test_an_array_of_objects_or_of_the_wrong_size_is_refused(pool: bufpool.Pool) -> None:
    frame = pool.stage(1)[0]
    with pytest.raises(bufpool.ArgumentError, match="Python objects"):
        frame.array(object)
    with pytest.raises(bufpool.ArgumentError, match="does not divide"):
        frame.array("V3")
    assert len(frame) == frame.size == 4096
    assert "Frame at 0x" in repr(frame)
    assert repr(pool.stage(2)).startswith("<2 Frames")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_not_got_the_frames_of_before(pool: bufpool.Pool) -> None:
    frames = pool.stage(1)
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            with pytest.raises(bufpool.ArgumentError, match="a fork came between"):
                frames[0].buffer  # noqa: B018
            if pool.memory == "shared" and pool.trap in ("guard", "mprotect"):
                with pytest.raises(bufpool.UnsupportedError, match="was not inherited"):
                    pool.stage(1)
                failed = 0
            else:
                with pytest.raises(bufpool.ArgumentError, match="forked child"):
                    pool.unstage(frames)
                own = pool.stage(1)
                own[0].array()[:] = 3
                pool.publish(own, [7])
                failed = int(pool.page(7)[4095] != 3)
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.unstage(frames)

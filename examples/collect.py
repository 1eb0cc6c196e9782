"""Views are as fast as memory; what strays through them is collected, or raised at the next call of the library."""

import bufpool

with bufpool.Pool("1 GiB", name="buffers") as pool:
    page = pool.allocate(b"a row")
    numbers = page.array("u8")  # a numpy array on the page's memory, without a copy
    page.free()

    with bufpool.catch_faults() as caught:
        numbers[7] = 42  # completes on a scratch page, not on the pool's data
    for report in caught.reports:
        print(f"{report.access} of page {report.page} at offset {report.offset}, which is {report.state}")

    numbers[8] = 43
    try:
        bufpool.check()  # so does any call on a pool, and the end of its "with" block
    except bufpool.StrayAccessError as error:
        print(f"raised: {error.report.access} at offset {error.report.offset}")

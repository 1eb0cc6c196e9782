"""Many pages in one call: numbers and contents are numpy arrays, and no page becomes an object of Python."""

import numpy as np

import bufpool

with bufpool.Pool("1 GiB", name="buffers") as pool:
    rows = np.arange(1000 * 512, dtype="u8").reshape(1000, 512)  # any buffer of 1000 whole pages
    numbers = pool.allocate_many(1000, rows)  # all or none
    cold = numbers[::2]
    kept = pool.read_many(cold)  # copies, by guarded access: a stray one raises here
    pool.evict_many(cold)
    print((pool.states(numbers) == "evicted").sum(), "pages are evicted")
    pool.populate_many(cold, kept)
    print((pool.array("u8")[numbers] == rows).all())  # all pages as one array, a page a row, without a copy
    pool.free_many(numbers)

"""Pages from a file and to it: what cannot be read is said for each page, and the others are there."""

import os
import tempfile

import numpy as np

import bufpool

SIZE = 4096

with tempfile.TemporaryFile() as file, bufpool.Pool("16 MiB", name="buffers") as pool:
    file.write(b"".join(bytes([i]) * SIZE for i in range(100)))
    file.flush()

    pages = np.array([40, 7, 9])  # any numbers that are free, or evicted
    pool.read_from(file, np.array([3, 50, 51]) * SIZE, pages)  # 50 and 51 are one request
    print([pool.page(n)[0] for n in pages])

    pool.page(7)[0:5] = b"dirty"
    pool.write_to(file, [50 * SIZE], [7])
    pool.evict(7)  # from here on a touch of it is reported
    pool.read_from(file, [50 * SIZE], [7])
    print(pool.page(7)[0:6])

    try:
        pool.read_from(file, [2 * SIZE, 99 * SIZE + 100], [1, 2])
    except bufpool.TransferError as error:
        print(error)
        print("read:", error.result.done, "errors:", [os.strerror(code) for code in error.result.errors])

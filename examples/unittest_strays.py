"""unittest, watched: the first test strays in a thread, and fails; the second expects to."""

import threading
import unittest

import bufpool
import bufpool.testing


class TestEngine(bufpool.testing.WatchedTests, unittest.TestCase):
    bufpool_options = "preset=test:pins=count"  # of the pools that its tests make

    def setUp(self):
        self.pool = bufpool.Pool("1 MiB", name="engine", on_fault="resume")
        self.addCleanup(self.pool.close)

    def test_thread(self):
        page = self.pool.allocate(b"a row")
        page.free()
        thread = threading.Thread(target=bytes, args=(page.buffer,))
        thread.start()
        thread.join()

    def test_expected(self):
        with self.assertRaises(bufpool.StrayAccessError):
            self.pool.page(7)[0]
        (report,) = self.bufpool_faults.take()
        self.assertEqual(report.state, "unallocated")


if __name__ == "__main__":
    unittest.main()

"""The demo: SQLite on real input with its own page cache and with a trapped pool, then a planted bug."""

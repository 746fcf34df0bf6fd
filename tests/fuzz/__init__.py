"""Broken and hostile files for every reader; see `tests.fuzz.run`."""

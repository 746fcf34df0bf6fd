"""Files around a result: how they are found, paired, read safely, written whole, and recorded."""

from segfix.files.pairing import Entry, Pair, list_entries, pair_entries

__all__ = ["Entry", "Pair", "list_entries", "pair_entries"]

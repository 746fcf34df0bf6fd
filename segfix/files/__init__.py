"""Files around a result: how they are found, paired, read safely, written whole, and recorded."""

from segfix.files.folders import Entry, list_entries
from segfix.files.pairing import Pair, pair_entries

__all__ = ["Entry", "Pair", "list_entries", "pair_entries"]

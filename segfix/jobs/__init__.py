"""Many files by one function: processes, shards, URLs and clusters, and what became of each."""

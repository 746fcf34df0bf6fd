"""The page and the HTTP API of `segfix serve`."""

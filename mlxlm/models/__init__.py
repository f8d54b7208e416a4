"""One short file for each decoder: what is its own, and how it is put together from the shared parts."""

"""Files on disk and the right to write them: run folders, checkpoints, the cache, and leases."""

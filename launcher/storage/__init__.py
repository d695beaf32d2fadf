"""What is on disk, and who may write it: run folders, the cache, and leases on both."""

"""What runs are doing: their state, progress and history, read from their folders and from schedulers."""

"""One rank's life: its place among the others, the batches it gets, the loop, and what it saves."""

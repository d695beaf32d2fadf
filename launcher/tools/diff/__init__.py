"""`launcher diff`: where two runs differ, from which step on, and why."""

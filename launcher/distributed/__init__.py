"""One process among others: its launch environment, its process group, how ranks find each other, and how they stop."""

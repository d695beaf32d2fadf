"""`launcher tune`: the fastest setting of a recipe on a cluster, and the file that keeps it."""

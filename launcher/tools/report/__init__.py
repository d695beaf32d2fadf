"""A page about runs: curves, the time line, evaluations and confusions, as one HTML file with pictures beside it."""

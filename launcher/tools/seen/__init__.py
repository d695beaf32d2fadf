"""`launcher seen`: the samples of a step of a run, with the rows that they come from."""

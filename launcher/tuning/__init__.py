"""Search for the fastest setting of a recipe: the part of `launcher tune` that runs on the ranks.

`search` decides what to measure next, from what has been measured. It runs on every rank with the same measurements,
and so decides alike. `rank_measurement` builds what a setting needs and takes steps. Each measurement is a line of the
`journal`, from which ranks that are started again go on, after a setting that ended them.
"""

"""A recipe for a data file: what the file holds, what to ask, and the text of the recipe."""

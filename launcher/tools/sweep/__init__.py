"""`launcher sweep`: train a recipe with many values of its keys, and compare the results."""

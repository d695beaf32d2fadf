"""`launcher doctor`: checks of the machines that a profile names."""

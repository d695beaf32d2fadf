"""The commands, grouped as the help shows them. A command parses its options and calls one tool."""

"""The commands, one module for each, and the code that several of them share."""

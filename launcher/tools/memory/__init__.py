"""The memory of one rank by purpose, traced in a build on fake tensors."""

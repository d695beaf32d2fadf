"""Preparation, once for all ranks: data, tokenizers, and downloads from the hub. Ranks only read the results."""

"""Data, tokenizers and weights, brought and made once; ranks only read."""

"""Benchmarks: what the launcher takes beside what a user would take instead, in one run: `python -m benchmarks NAME`.

A benchmark is a module of this package with the two functions of `pairs.Benchmark`. Its file is its registration, and
the first line of its docstring is its description. Modules whose names begin with an underscore are none.
"""

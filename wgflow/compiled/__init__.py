"""Functions compiled by Numba: arrays in, arrays out; no classes, no user functions.

The whole call tree of a compiled function stands in one file, since Numba's cache does not notice changes elsewhere.
"""

"""Numba kernels: arrays in, arrays out; no classes, no user functions. One call tree per file (Numba's cache rule)."""

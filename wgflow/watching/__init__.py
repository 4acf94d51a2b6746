"""Watching a run and ending it early: conditions, and what `solve(..., callback=, stop=)` makes of them."""

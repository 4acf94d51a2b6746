"""Arguments of calls: their checks, and what is said where they are unknown, missing, too many or swapped."""

"""Calls that go wrong: what is said where arguments are unknown, missing, too many or swapped."""

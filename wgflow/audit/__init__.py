"""The audit: whether a run solves its equation, tested in weak form by code that shares nothing with a solver."""

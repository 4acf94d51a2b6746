"""Files: solutions, checkpoints, and the archives and locks under both."""

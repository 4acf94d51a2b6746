"""Files: solutions and checkpoints, and the archives and locks that both use."""

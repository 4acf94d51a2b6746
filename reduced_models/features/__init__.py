"""Features of few coordinates that sum up to the kernel U of a network."""

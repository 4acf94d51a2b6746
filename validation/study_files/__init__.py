"""Studies that a TOML file describes, as ``wgflow run study.toml`` solves them: formulas, tables, and the run."""

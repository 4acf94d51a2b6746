"""Pictures of solutions, of atoms and of comparisons with particles."""

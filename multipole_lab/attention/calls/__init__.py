"""What surrounds the formula in a call: checks, padding, transforms, compilation, and the choice of a backend."""

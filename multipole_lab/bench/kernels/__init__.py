"""`multipole-lab bench kernels`: every kernel alone, with its error and its share of the roofline."""

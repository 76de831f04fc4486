"""What a step of training is made of: kernels by name, and the lanes of every process."""

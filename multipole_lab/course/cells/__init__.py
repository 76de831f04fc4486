"""What a submission's code cells consist of, read and not run: IPython's commands, statements, kernels."""

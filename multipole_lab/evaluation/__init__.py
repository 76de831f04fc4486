"""What an approximation costs a whole model: generation, perplexity, tasks."""

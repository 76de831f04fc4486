"""A model of lm-eval, EleutherAI's evaluation harness, whose attention is a method of the lab."""

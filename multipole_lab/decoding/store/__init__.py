"""What a clustered cache keeps: keys and values in growing buffers, and their clusters on one or two levels."""

"""From text to tokens on disk, and the order in which they are learned from."""

"""What panels put on the page besides a figure: the words of a text, and bars that race."""

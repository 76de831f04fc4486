"""Who looks at what in one head: as a matrix, and as the words of the text."""

"""What every panel can do besides its figure: fold controls away, undo, play, hold, link, read a text of one's own."""

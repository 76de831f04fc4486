"""The commands of `multipole-lab bench`: times as a user meets them, the error beside every time."""

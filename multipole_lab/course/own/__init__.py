"""Assignments of one's own: a template to begin with, and the proof that what became of it can be handed out."""

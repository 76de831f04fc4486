"""A small assignment that is whole: `multipole-lab course new` copies it, under another name."""

"""What figures share: the theme, fields, pictures as files, and what a notebook keeps of a figure."""

from .kept import keep_widths

keep_widths()

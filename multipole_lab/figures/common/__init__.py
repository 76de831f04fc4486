"""What figures share: the theme, fields, and pictures as files."""

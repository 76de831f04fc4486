"""What reports are made of: tables for people and their spreadsheets, pages, and the class as a whole."""

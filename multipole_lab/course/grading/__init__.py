"""What instructors do: release masters, grade submissions, and report marks."""

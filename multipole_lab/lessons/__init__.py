"""What only lessons use: pictures of small cases that the notebooks and their panels show."""

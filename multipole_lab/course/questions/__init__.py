"""What students are asked: inputs to try, right answers, and the mistakes that checks can name."""

"""Which of transformers' model families work with the lab, found out on tiny random models of each."""

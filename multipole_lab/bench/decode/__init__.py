"""`multipole-lab bench decode` and `bench generate`: decoding steps against dense decoding, on a CPU and on a GPU."""

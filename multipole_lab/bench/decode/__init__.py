"""`multipole-lab bench decode`: one decoding step against dense decoding, on a CPU and on a GPU."""

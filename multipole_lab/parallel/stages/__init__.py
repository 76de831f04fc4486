"""What each rank computes between the messages: in torch, or by the Triton kernels."""

"""What kernels share: their launch, tile sizes, and the device functions that several of them take."""

"""The kernels as a package for Hugging Face's Kernel Hub: `multipole-lab kernels --hub FOLDER`."""

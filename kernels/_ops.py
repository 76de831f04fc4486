"""The namespace of `operators`. The Kernel Hub has a file of this name in every build, with a namespace of its own, so
that two versions can be loaded beside each other."""

import torch

NAMESPACE = "multipole_kernels"

ops = getattr(torch.ops, NAMESPACE)


def add_op_namespace_prefix(name: str) -> str:
    """The full name of an operator."""
    return f"{NAMESPACE}::{name}"

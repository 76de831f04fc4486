"""Attention over a sequence that is spread over several processes, on ``torch.distributed``."""

from multipole_lab.parallel.channel import Traffic
from multipole_lab.parallel.context import ContextParallel, context_parallel
from multipole_lab.parallel.launch import launch
from multipole_lab.parallel.reference import parallel_reference, part_of
from multipole_lab.parallel.ring import RingAttention, ring_attention
from multipole_lab.suggesting import known_names

__all__ = [
    "ContextParallel",
    "RingAttention",
    "Traffic",
    "context_parallel",
    "launch",
    "parallel_reference",
    "part_of",
    "ring_attention",
]

__getattr__ = known_names(__name__, __all__)

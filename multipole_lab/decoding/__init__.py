"""The clustered KV cache and the decode step."""

from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.step.trace import Trace, TracedStep, labels
from multipole_lab.decoding.store.state import Level, State
from multipole_lab.suggesting import known_names

__all__ = ["Level", "MultipoleCache", "State", "Trace", "TracedStep", "decode_step", "labels"]

__getattr__ = known_names(__name__, __all__)

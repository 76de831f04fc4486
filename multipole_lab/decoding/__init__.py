"""The clustered KV cache and the decode step."""

from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.decoding.step import Level, State, decode_step

__all__ = ["Level", "MultipoleCache", "State", "decode_step"]

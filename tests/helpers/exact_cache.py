"""Settings of a clustered cache whose result must equal dense decoding."""

# Small enough to have several blocks after a prompt of fifty tokens; the budget is everything, so every key is exact.
EXACT = {
    "fraction": 1 / 8,
    "budget": 1.0,
    "recent": 8,
    "sinks": 4,
    "interval": 8,
    "block": 32,
    "lookups": 1.0,
    "dense_until": 0,
}

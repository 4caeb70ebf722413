"""Which cache block holds what: a pool of block ids, and keys to find a common beginning again (no torch)."""

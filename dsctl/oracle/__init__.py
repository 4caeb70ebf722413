"""A deterministic stand-in for a replica: every token is known beforehand, every fault can be switched on."""

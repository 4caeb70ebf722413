"""The ops table: what the layers compute with, and its slow, right reference in torch."""

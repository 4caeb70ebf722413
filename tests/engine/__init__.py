"""Tests of the engine; checkpoints.py makes tiny random models for all of them."""

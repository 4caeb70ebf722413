"""Tests of tests/faults."""

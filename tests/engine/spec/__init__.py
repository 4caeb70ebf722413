"""Tests of engine/spec."""

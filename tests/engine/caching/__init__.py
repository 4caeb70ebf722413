"""Tests of engine/caching."""

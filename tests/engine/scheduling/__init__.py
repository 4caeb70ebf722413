"""Tests of engine/scheduling."""

"""Tests mirror the packages; what they share lives beside them by name."""

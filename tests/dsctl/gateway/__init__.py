"""Tests of tests/dsctl/gateway."""

"""Tests of tests/dsctl/oracle."""

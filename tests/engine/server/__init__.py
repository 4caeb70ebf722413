"""Tests of the API process."""

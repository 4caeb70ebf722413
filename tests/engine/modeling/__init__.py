"""Tests of engine/modeling."""

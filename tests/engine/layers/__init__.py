"""Tests of engine/layers."""

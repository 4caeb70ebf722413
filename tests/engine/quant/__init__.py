"""Tests of engine/quant."""

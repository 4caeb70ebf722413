"""Tests of engine/calibrate."""

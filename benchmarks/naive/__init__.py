"""Measures our engine against what one writes in an afternoon: Flask around transformers' generate."""

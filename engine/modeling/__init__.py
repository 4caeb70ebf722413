"""The model: one definition for V2, V2-Lite, V3 and R1, its loader and its self-check."""

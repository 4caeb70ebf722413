"""The operator's hand: one CLI that deploys, scales, measures and diagnoses."""

__version__ = "0.1.0"

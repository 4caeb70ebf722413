"""Number formats of checkpoints: how stored weights become values."""

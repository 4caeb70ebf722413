"""From a step plan to chosen tokens: rows for the model, logits, sampling with noise by counter."""

"""What quantising costs a model in quality and saves in bytes, and which parts are worth it."""

"""Building blocks of the model: attention, experts, router, norms, rotary, and the batch they work on."""

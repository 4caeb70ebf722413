"""What to compute next, for whom, and what became of it: sequences, queue, token budget, preemption (no torch)."""

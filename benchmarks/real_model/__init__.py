"""A real language model on real questions: its warm start, and what was measured with it."""

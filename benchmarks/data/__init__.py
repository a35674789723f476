"""Real questions and passages for tests and benchmarks."""

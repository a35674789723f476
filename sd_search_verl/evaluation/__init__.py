"""Benchmark runs and the numbers made of them."""

"""What is alarming in a run: pure functions of its metrics."""

"""Seconds and memory that SD-Search adds to a training step, and to its parts."""

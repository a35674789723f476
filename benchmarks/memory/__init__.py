"""Memory of a training step: counted, checked against torch, and read from a run."""

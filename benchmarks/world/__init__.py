"""The study of the method in the synthetic world: arms against each other (``python -m benchmarks.world``)."""

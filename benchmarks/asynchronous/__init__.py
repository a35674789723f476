"""The asynchronous trainer modes: simulated, timed on a CPU, and one checked against the other."""

"""Java inside the process: the runtime, and a loop of method handles."""

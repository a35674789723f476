"""In the driver's process: verl's trainers with the method, their batches, checkpoints and metrics."""

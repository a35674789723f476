"""The parts: one a file, each with ``run(run, *arguments)``."""

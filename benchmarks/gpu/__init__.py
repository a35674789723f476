"""Whether SD-Search is right on a card, and what it costs there: ``python -m benchmarks.gpu``."""

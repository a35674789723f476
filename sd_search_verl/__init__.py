"""SD-Search for verl: query-level credit for search agents by hindsight self-distillation."""

__version__ = "0.1.0"

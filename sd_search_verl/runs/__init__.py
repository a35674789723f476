"""The files of a training run: ``metrics.jsonl`` and ``traces.jsonl``, their schema, writer, reader and resume."""

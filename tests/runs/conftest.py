"""Run folders written by the trainer's own writer."""

from support.run_folders import make_run

__all__ = ["make_run"]

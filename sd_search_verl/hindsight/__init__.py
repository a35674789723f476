"""The hindsight block and the teacher's rows: from a finished group of rollouts to what the teacher reads."""

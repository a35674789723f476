"""GRPO against SD-Search on real questions: a plain PyTorch reference of the real model, small enough for one core."""

"""Loaded by verl in a benchmark run (VERL_USE_EXTERNAL_MODULES): the trainer asks for finished rollouts every 50 ms.

verl asks every two seconds, so the time of a short step is a multiple of that, whatever its rollouts take.
"""

from __future__ import annotations

from functools import partialmethod

import sd_search_verl.plugin  # noqa: F401  first: verl loads this module before it loads plugins

# isort: split
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from benchmarks.cost.step_overhead import POLL_S

setattr(ReplayBuffer, "__init__", partialmethod(ReplayBuffer.__init__, poll_interval=POLL_S))  # noqa: B010

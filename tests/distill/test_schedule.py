"""alpha over training."""

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.schedule import alpha_at


def test_alpha_is_zero_during_warm_up_and_constant_after() -> None:
    config = SDSearchConfig(alpha=0.5, warmup_steps=3)
    assert [alpha_at(step, config) for step in (1, 3, 4, 1000)] == [0.0, 0.0, 0.5, 0.5]
    assert alpha_at(1, SDSearchConfig(alpha=0.5, warmup_steps=0)) == 0.5

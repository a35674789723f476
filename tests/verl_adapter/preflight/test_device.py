"""A run on the CPU without verl's platform for it is refused."""

from __future__ import annotations

import pytest
import verl.utils.device
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.verl_adapter.preflight.device import check_device


def test_a_run_on_the_cpu_needs_its_platform(good: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = change(good, trainer__device="cpu"), change(good, trainer__device="cuda")
    assert [*check_device(cpu)] == [*check_device(gpu)] == []
    monkeypatch.setattr(verl.utils.device, "get_device_name", lambda: "cuda")  # as without VERL_PLATFORM=cpu
    (finding,) = check_device(cpu)
    assert finding.fatal
    assert "VERL_PLATFORM=cpu" in finding.fix
    assert [*check_device(gpu)] == []
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert [*check_device(cpu)] == []

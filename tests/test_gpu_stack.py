"""What stops a GPU run before its first step is named, with the version and the fix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import first_on_path

from sd_search_verl import doctor, gpu_stack
from sd_search_verl.gpu_stack import check_driver, check_flash_attention, check_gpu_memory, check_trl

UNDEFINED = "_ZN3c104cuda20CUDACachingAllocator9allocatorE_of_another_torch"


def fake_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def package(folder: Path, name: str, version: str) -> None:
    """Metadata of an installed distribution in ``folder``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def visible(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put ``folder`` before the environment's packages, here and in subprocesses."""
    monkeypatch.setenv("PYTHONPATH", first_on_path(folder))
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("driver", "cuda", "ok"),
    [
        ("535.183.01", "13.0", False),
        ("570.124.06", "13.0", False),
        ("580.65.06", "13.0", True),
        ("535.183.01", "12.8", True),
        ("470.57.02", "12.8", False),
        ("535.183.01", None, True),
    ],
)
def test_the_driver_must_be_as_new_as_torchs_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, cuda: str | None, ok: bool
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, f"echo {driver}; echo {driver}")
    (finding,) = check_driver(cuda)
    assert (finding.name, finding.ok) == ("driver", ok)
    assert driver in finding.found
    if cuda == "13.0":
        assert "built for CUDA 13.0, which needs R580" in finding.found
        assert "update the driver to R580" in finding.fix


def test_a_driver_that_is_not_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "echo NVIDIA-SMI has failed >&2; exit 9")
    (finding,) = check_driver("13.0")
    assert not finding.ok
    assert "NVIDIA-SMI has failed" in finding.found


def test_a_driver_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, "exec sleep 30")
    monkeypatch.setattr(gpu_stack, "DRIVER_S", 0.3)
    (finding,) = check_driver("13.0")
    assert (finding.ok, finding.found) == (False, "nvidia-smi failed: no answer within 0.3 s")
    assert check_gpu_memory() == []


def test_a_plugin_whose_import_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verl.py").write_text("import time; time.sleep(30)")
    visible(tmp_path, monkeypatch)
    monkeypatch.setattr(doctor, "IMPORT_S", 1.0)
    assert doctor.check_plugin().fix == "no answer within 1 s"


def test_without_a_driver_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_driver("13.0") == []


@pytest.mark.parametrize(
    ("visible", "answer", "found"),
    [
        (None, "0, 4, 81559\n1, 60000, 81559", "GPU 1: 58.6 of 79.6 GiB are taken"),
        ("1", "0, 4, 81559\n1, 60000, 81559", "GPU 1: 58.6 of 79.6 GiB are taken"),
        ("0", "0, 4, 81559\n1, 60000, 81559", "1 free"),
        ("", "0, 4, 81559\n1, 60000, 81559", None),
        ("GPU-5b1c", "0, 4, 81559\n1, 700, 81559", "2 free"),
        (None, "0, [N/A], [N/A]", None),
    ],
)
def test_memory_that_others_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, answer: str, found: str | None
) -> None:
    fake_nvidia_smi(tmp_path, monkeypatch, f"printf '{answer}\n'")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    findings = check_gpu_memory()
    assert [finding.found for finding in findings] == ([] if found is None else [found])
    assert all(finding.ok == ("free" in finding.found) for finding in findings)


def test_a_missing_flash_attn_comes_with_the_overrides_that_train_without_it() -> None:
    finding = check_flash_attention()
    assert (finding.ok, finding.found) == (False, "not installed")
    assert "attn_implementation=sdpa" in finding.fix
    assert "ppo_max_token_len_per_gpu=4096" in finding.fix


def test_flash_attn_of_another_torch_is_not_taken_for_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real shared object with an undefined symbol, as a wheel that was built for another torch."""
    package(tmp_path, "flash-attn", "2.8.3")
    source = tmp_path / "extension.c"
    source.write_text(
        f"void {UNDEFINED}(void); void *PyInit_flash_attn_2_cuda(void) {{ {UNDEFINED}(); return 0; }}\n"
    )
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-Wl,-z,now",
        str(source),
        "-o",
        str(tmp_path / "flash_attn_2_cuda.so"),
    ]
    subprocess.run(command, check=True, timeout=60)
    visible(tmp_path, monkeypatch)
    finding = check_flash_attention()
    assert not finding.ok
    assert f"undefined symbol: {UNDEFINED}" in finding.found
    assert "2.8.3 cannot be loaded with torch " in finding.found
    assert "compile it against torch" in finding.fix


def test_trl_without_the_class_that_verl_imports_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "trl", "1.16.0")
    (tmp_path / "trl" / "experimental").mkdir(parents=True)
    (tmp_path / "trl" / "__init__.py").touch()
    (tmp_path / "trl" / "experimental" / "__init__.py").touch()
    visible(tmp_path, monkeypatch)
    (finding,) = check_trl()
    assert not finding.ok
    assert "1.16.0 stops verl's workers" in finding.found
    assert "AutoModelForCausalLMWithValueHead" in finding.found
    assert "'trl>=0.27,<1.13'" in finding.fix


def test_no_trl_is_no_finding() -> None:
    assert check_trl() == []


@pytest.mark.slow
@pytest.mark.parametrize(("version", "ok"), [("0.27.0", True), ("1.12.0", True), ("1.13.0", False)])
def test_the_range_of_trl_is_that_of_its_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, ok: bool
) -> None:
    """Downloads trl alone; it is imported with this environment's transformers."""
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path),
        f"trl=={version}",
    ]
    subprocess.run(install, check=True, timeout=300)
    visible(tmp_path, monkeypatch)
    (finding,) = check_trl()
    assert finding.ok == ok, finding

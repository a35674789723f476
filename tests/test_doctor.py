"""What the doctor says of the folders that Ray and vLLM exchange data in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.own_mounts import skip_without_own_mounts, with_small_disk

from sd_search_verl.doctor import check_shared_memory, check_temporary_folders


def test_a_small_shared_memory_is_a_warning_with_dockers_option(tmp_path: Path) -> None:
    skip_without_own_mounts(tmp_path)
    program = (
        "import sys; from pathlib import Path; from sd_search_verl.doctor import check_shared_memory; "
        "from sd_search_verl.finding import show; print(show(check_shared_memory(Path(sys.argv[1]))))"
    )
    command = with_small_disk(tmp_path, "64m", [sys.executable, "-c", program, str(tmp_path)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"warn  {tmp_path}  0.1 GiB free" in done.stdout, done.stderr
    assert "`docker run --shm-size=2g`" in done.stdout


def test_a_system_without_shared_memory_has_no_finding_of_it(tmp_path: Path) -> None:
    assert check_shared_memory(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("variable", "characters", "ok"),
    [("TMPDIR", 39, True), ("TMPDIR", 40, False), ("RAY_TMPDIR", 40, False), ("RAY_TMPDIR", 39, True)],
)
def test_a_temporary_folder_too_long_for_rays_sockets_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, variable: str, characters: int, ok: bool
) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/" + "a" * (characters - 1))
    finding = check_temporary_folders()
    assert (finding.ok, finding.fatal) == (ok, False)
    assert ok or "`export TMPDIR=/tmp RAY_TMPDIR=/tmp`" in finding.text


def test_a_temporary_folder_too_long_for_vllms_sockets_is_a_warning_where_rays_is_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("a" * 60)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert f"{long} has {len(os.fspath(long))} characters, more than 60" in check_temporary_folders().found

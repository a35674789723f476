"""Two runs do not write one folder, and a run notices that its folder is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.files import FolderLock

HOLD = (
    "import sys; from pathlib import Path; from sd_search_verl.files import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1]), 'trainer', 'a training'); print('held', flush=True); sys.stdin.read()"
)


def test_a_folder_is_held_until_its_process_ends_however_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=rf"a training is writing {folder} \(process {holder.pid} on "):
        FolderLock(folder, "trainer", "a training")
    other = FolderLock(folder, "local", "another program")
    threading.Timer(0.5, holder.kill).start()
    ours = FolderLock(folder, "trainer", "a training", wait_s=30)
    holder.wait()
    assert (folder / ".trainer.lock").read_text().startswith(f"process {os.getpid()} on ")
    ours.check()
    ours.release()
    other.release()
    FolderLock(folder, "trainer", "a training").release()


def test_a_folder_that_was_moved_or_removed_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = FolderLock(folder, "trainer", "a training")
    lock.check()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=rf"{folder} was moved or removed while it was written\. Fix: put it back"
    ):
        lock.check()
    folder.mkdir()
    (folder / ".trainer.lock").touch()  # as another run would
    with pytest.raises(UserError, match="was moved or removed"):
        lock.check()

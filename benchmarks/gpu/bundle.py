"""What a machine with torch, but without a package index, lacks for the run: collected here, unpacked there.

The folder, some 45 MB for Python 3.12 on x86-64 Linux, holds verl and what it imports, TRL and Liger, flash-attn's
names over torch's own kernels, and the project's own metadata, by which verl finds the plugin. Not in it, since no part
needs them: vLLM, and Ray's daemons.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
NAMES = Path(__file__).resolve().parent / "names"
PLATFORMS = ("2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2014", "2_12", "2_5", "1")

VERL = (
    *("verl", "TransferQueue", "tensordict", "transformers", "tokenizers", "hydra-core", "omegaconf"),
    *("codetiming", "datasets", "torchdata", "pyvers", "pylatexenc", "jsonschema"),
    *("jsonschema-specifications", "referencing", "rpds-py", "dill", "multiprocess", "orjson", "uvicorn"),
    *("fastapi", "starlette", "pydantic", "pydantic_core", "typing-inspection", "annotated-types", "pyzmq"),
    *("msgspec", "importlib_metadata", "cachetools", "liger-kernel"),
)
SOURCE_ONLY = "antlr4-python3-runtime"
COMPARED = ("trl",)
"""In a folder of its own: verl does not load beside it."""

RAY_UNUSED = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/", "ray/serve/", "ray/llm/", "ray/cpp/")
"""Java, the dashboard and other libraries."""
RAY_WITHOUT = (*RAY_UNUSED, "ray/core/libjemalloc.so", "ray/core/src/ray/")
"""These and the daemons: 60 of 79 MB. verl imports ray; nothing here starts it."""
FLASH_ATTN_FILES = ("flash_attn/bert_padding.py", "flash_attn/ops/triton/cross_entropy.py", "LICENSE")
"""Plain Python and Triton, taken from flash-attn's source archive."""


def pins() -> dict[str, str]:
    """Return this project's pinned versions by name."""
    lines = [
        line
        for name in ("gpu.txt", "cpu.txt", "versions.txt")
        for line in (REPO / "requirements" / name).read_text().splitlines()
    ]
    return dict(match.groups() for line in lines if (match := re.match(r"([\w.-]+)==(\S+)$", line)))  # type: ignore[misc]


def bundle(out: Path) -> None:
    """Collect everything into ``out``, which is emptied before; needs pip and a package index."""
    shutil.rmtree(out, ignore_errors=True)
    version = pins()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        download(out / "verl", [f"{package}=={version[package]}" for package in VERL])
        _pip("wheel", "-w", out / "verl", f"{SOURCE_ONLY}=={version[SOURCE_ONLY]}")
        download(out / "compare", [f"{package}=={version[package]}" for package in COMPARED])
        download(work, [f"ray=={version['ray']}"])
        (ray,) = work.glob("ray-*.whl")
        strip(ray, out / "verl", RAY_WITHOUT)
        _flash_attn(work, out / "site", version["flash-attn"])
    _metadata(out / "site")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.0f} MB")


def unpack(bundled: Path) -> Path:
    """Install a bundle on this machine without an index: a folder with ``verl`` and ``compare`` to search.

    A second call finds what the first one installed, also where the bundle is gone by then.
    """
    site = _site()
    done, names = site / "complete", "\n".join(sorted(path.name for path in bundled.rglob("*")))
    if done.exists() and names in ("", done.read_text()):
        return site
    shutil.rmtree(site, ignore_errors=True)
    for part in ("verl", "compare"):
        wheels = sorted((bundled / part).glob("*.whl"))
        if not wheels:
            raise SystemExit(
                f"no wheels in {bundled / part}; python -m benchmarks.gpu bundle {bundled} makes them"
            )
        _install(site / part, wheels)
    shutil.copytree(bundled / "site", site / "verl", dirs_exist_ok=True)
    done.write_text(names)
    return site


def unpack_more(folder: Path) -> None:
    """Install a further folder's wheels beside those of :func:`unpack`, in place of theirs where both have one.

    Files that are no wheels are the policy's: see :func:`installed_policy`.
    """
    site, files = _site(), sorted(folder.glob("*"))
    if not files:
        raise SystemExit(
            f"nothing in {folder}; python -m benchmarks.gpu stack-bundle DIR (or policy-bundle) makes such folders"
        )
    wheels = [path for path in files if path.suffix == ".whl"]
    if not wheels:
        installed_policy().mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copy(path, installed_policy() / path.name)
        return
    if not (site / "complete").exists():
        raise SystemExit(
            "nothing is installed yet; first python -m benchmarks.gpu --bundle DIR --only machine"
        )
    _install(site / "verl", wheels)


def _install(target: Path, wheels: Sequence[Path]) -> None:
    _pip("install", "--no-index", "--no-compile", "--upgrade", "--target", target, *wheels)
    # pip compiles on one core; a file that is not Python of this version is no error.
    subprocess.run([sys.executable, "-m", "compileall", "-qq", "-j", "0", str(target)], check=False)


def installed_policy() -> Path:
    """Return the folder of ``policy_bundle.py``'s files on this machine."""
    return _site() / "policy"


def _site() -> Path:
    """Return the folder of what is installed, this user's own: programs are imported from it."""
    site = Path(tempfile.gettempdir()) / f"sd_search_gpu_site_{os.getuid()}"
    site.mkdir(mode=0o700, exist_ok=True)
    if site.is_symlink() or site.stat().st_uid != os.getuid():
        raise SystemExit(
            f"{site} is another user's, or a link; remove it, or set TMPDIR to a folder of your own"
        )
    return site


def strip(
    wheel: Path,
    folder: Path,
    without: tuple[str, ...],
    change: Callable[[str, bytes], bytes] = lambda path, data: data,
    empty: tuple[str, ...] = (),
) -> Path:
    """Write ``wheel`` into ``folder`` as a build of its own, without the paths that start with ``without``.

    Args:
        change: gets path and content of every file that stays, and returns the content to write.
        empty: files to add without content.
    """
    name, version, *rest = wheel.name.split("-")
    target = folder / "-".join([name, version, "1stripped", *rest])
    compressed = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 9}
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", **compressed) as new:  # type: ignore[call-overload]
        for item in old.infolist():
            if item.filename.startswith(without):
                continue
            data = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                kept = [
                    line for line in data.splitlines(keepends=True) if not line.decode().startswith(without)
                ]
                data = b"".join(kept)
            new.writestr(item, change(item.filename, data))
        for path in empty:
            new.writestr(path, b"")
    return target


def download(folder: Path, requirements: Sequence[str]) -> None:
    """Download wheels for Python 3.12 on Linux, whatever runs here."""
    platforms = [f"--platform=manylinux{'' if p in ('2014', '1') else '_'}{p}_x86_64" for p in PLATFORMS]
    target = ("--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms)
    _pip("download", *target, "-d", folder, *requirements)


def _flash_attn(work: Path, site: Path, version: str) -> None:
    """Write flash-attn's names over torch's kernels, and its own files that need no compiler."""
    shutil.copytree(NAMES, site, ignore=shutil.ignore_patterns("__pycache__"))
    # For the archive's metadata pip runs its setup.py, which imports torch.
    options = ("--no-build-isolation", "--no-binary=flash-attn", "-d", work, f"flash-attn=={version}")
    _pip("download", *options, FLASH_ATTENTION_SKIP_CUDA_BUILD="TRUE")
    (archive,) = work.glob("flash_attn-*.tar.gz")
    with tarfile.open(archive) as source:
        top = archive.name.removesuffix(".tar.gz")
        for name in FLASH_ATTN_FILES:
            file = source.extractfile(f"{top}/{name}")
            assert file is not None
            path = site / (name if name.startswith("flash_attn/") else f"flash_attn/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())
    for package in ("ops", "ops/triton"):
        (site / "flash_attn" / package / "__init__.py").touch()
    metadata = site / f"flash_attn-{version}+torch.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash_attn\nVersion: {version}+torch\n")
    (metadata / "top_level.txt").write_text("flash_attn\n")
    (metadata / "RECORD").touch()


def _metadata(site: Path) -> None:
    """Write the project's name, version and entry points; its code is read from the checkout."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(site.resolve())]
    subprocess.run(command, cwd=REPO, check=True)


def _pip(command: str, *arguments: object, **variables: str) -> None:
    options = ["-q", "--disable-pip-version-check", "--no-deps", *map(str, arguments)]
    subprocess.run([sys.executable, "-m", "pip", command, *options], check=True, env=os.environ | variables)

"""What a whole training run needs beside the folder of ``bundle.py`` where there is no index: vLLM and Ray's daemons.

vLLM's wheel has 280 MB, most of it machine code for other cards than the one at hand. Here its largest library keeps
the code of one architecture, its attention kernels stay behind (vLLM then attends by Triton), and all is laid into
folders that are small enough to travel one after the other.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from benchmarks.gpu.bundle import RAY_UNUSED, download, pins, strip

ARCHITECTURE = 90
"""Of an H100 or H200."""
PART_BYTES = 56_000_000
DEPENDENCIES = (
    *("blake3", "openai", "prometheus-fastapi-instrumentator", "lm-format-enforcer", "llguidance"),
    *("outlines_core", "diskcache", "lark", "xgrammar", "partial-json-parser", "mistral_common"),
    *("compressed-tensors", "depyf", "watchfiles", "python-json-logger", "pybase64", "cbor2", "ijson"),
    *("setproctitle", "openai-harmony", "anthropic", "model-hosting-container-standards", "mcp", "mcp-types"),
    *("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-semantic-conventions", "bm25s", "astor"),
    "PyStemmer",
    *("httpx2", "httpcore2", "sniffio", "jmespath", "apache-tvm-ffi", "httptools"),
    *("opentelemetry-semantic-conventions-ai", "interegular", "jiter", "distro", "loguru", "gguf"),
)
VLLM_WITHOUT = (
    *("vllm/vllm-rs", "vllm/third_party/deep_gemm/", "vllm/third_party/fmha_sm100/", "vllm/_qutlass"),
    *(
        "vllm/vllm_flash_attn/_vllm_fa2_C",
        "vllm/vllm_flash_attn/_vllm_fa3_C",
        "vllm/_flashmla",
        "vllm/_moe_C",
    ),
)
IMPORTED = ("vllm/vllm_flash_attn/_vllm_fa2_C.py",)
"""In place of a library that vLLM imports and nothing here calls."""
FATBIN, PTX, ELF = 0xBA55ED50, 1, 2


def keep_architecture(library: bytes, architecture: int) -> bytes:
    """Return a library whose containers of machine code hold that of one card, followed by zeros, which compress away.

    A container without code for that card keeps its PTX, which the driver compiles, or stays as it is. The format is
    undocumented; what does not look like such a container stays as it is.
    """
    data, at, mark = bytearray(library), 0, struct.pack("<I", FATBIN)
    while (at := data.find(mark, at)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, at)
        first, end = at + header, at + header + size
        if header != 16 or end > len(data):
            at += len(mark)
            continue
        entries = _entries(data, first, end)
        kept = [code for kind, card, code in entries if kind == ELF and card == architecture]
        kept = kept or [code for kind, card, code in entries if kind == PTX and card <= architecture]
        if kept:
            code = b"".join(kept)
            struct.pack_into("<Q", data, at + 8, len(code))
            data[first:end] = code.ljust(size, b"\0")
        at = end
    return bytes(data)


def _entries(data: bytearray, first: int, end: int) -> list[tuple[int, int, bytes]]:
    """Return kind, card and bytes of a container's entries; none if they do not fill it."""
    found = []
    while first + 64 <= end:
        kind, _, length, payload, _, _, _, _, card = struct.unpack_from("<HHIQIIHHI", data, first)
        stop = first + length + payload
        if kind not in (PTX, ELF) or stop > end:
            return []
        found.append((kind, card, bytes(data[first:stop])))
        first = stop
    return found


def bundle(out: Path) -> list[Path]:
    """Collect everything into folders ``out``1, ``out``2, ...; needs pip and a package index."""
    version = pins()
    with tempfile.TemporaryDirectory() as name:
        work, done = Path(name), Path(name) / "done"
        done.mkdir()
        download(work, [f"vllm=={version['vllm']}", f"ray=={version['ray']}"])
        (vllm,), (ray,) = work.glob("vllm-*.whl"), work.glob("ray-*.whl")
        pruned = strip(vllm, done, VLLM_WITHOUT, _pruned, IMPORTED)
        strip(ray, done, RAY_UNUSED)
        download(
            done,
            [f"{package}=={version[package]}" if package in version else package for package in DEPENDENCIES],
        )
        print(
            f"vLLM: {vllm.stat().st_size / 1e6:.0f} MB, {pruned.stat().st_size / 1e6:.0f} MB without the rest"
        )
        return lay_out(sorted(done.iterdir(), key=lambda path: -path.stat().st_size), out)


def _pruned(path: str, data: bytes) -> bytes:
    return keep_architecture(data, ARCHITECTURE) if path.endswith(".so") else data


def lay_out(wheels: list[Path], out: Path) -> list[Path]:
    """Put wheels into as few folders as their sizes allow, the largest first."""
    folders: list[tuple[Path, int]] = []
    for wheel in wheels:
        size = wheel.stat().st_size
        place = next((n for n, (_, used) in enumerate(folders) if used + size <= PART_BYTES), None)
        if place is None:
            folder = out.with_name(f"{out.name}{len(folders) + 1}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            folders.append((folder, 0))
            place = len(folders) - 1
        folder, used = folders[place]
        shutil.copy(wheel, folder / wheel.name)
        folders[place] = (folder, used + size)
    for folder, used in folders:
        print(f"{folder}: {used / 1e6:.0f} MB")
    return [folder for folder, _ in folders]

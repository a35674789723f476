"""A model folder with something wrong in it is named, with the fix, by every command that loads one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support import identity_server
from support.faults import complaint, write_lines

from sd_search_verl.cli import main
from sd_search_verl.pretrained import load_config, load_policy, load_tokenizer
from sd_search_verl.world.config import CHECKPOINT


def edited(**values: object) -> Callable[[Path], None]:
    """A config.json with other values."""

    def fault(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return fault


def written(name: str, content: str | bytes) -> Callable[[Path], object]:
    content = content.encode() if isinstance(content, str) else content
    return lambda model: (model / name).write_bytes(content)


def half(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def without_a_tensor(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def folder_in_place_of_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()


def file_in_place_of_the_folder(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("x")


def without_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1577920\n"
CONFIGS: dict[str, Callable[[Path], object]] = {
    "no config": lambda model: (model / "config.json").unlink(),
    "half a config": written("config.json", "{"),
    "config of a list": written("config.json", "[]"),
    "unknown kind": edited(model_type="nosuch"),
}
TOKENIZERS: dict[str, Callable[[Path], object]] = {
    "no tokenizer": without_tokenizer,
    "half a tokenizer": written("tokenizer.json", "{"),
    "another tokenizer.json": written("tokenizer.json", '{"a": 1}'),
    "half a tokenizer_config": written("tokenizer_config.json", "{"),
}
SHAPES: dict[str, Callable[[Path], object]] = {
    "other shapes": edited(hidden_size=64),
    "more layers": edited(num_hidden_layers=3, layer_types=None),
    "a tensor missing": without_a_tensor,
}
WEIGHTS: dict[str, Callable[[Path], object]] = {
    "no weights": lambda model: (model / "model.safetensors").unlink(),
    "empty weights": written("model.safetensors", b""),
    "half of the weights": half,
    "a page in place of weights": written("model.safetensors", b"<html>not found</html>" * 10),
    "a pointer of git's": written("model.safetensors", POINTER),
    "a header of no JSON": written("model.safetensors", (20).to_bytes(8, "little") + b"x" * 40),
    "a header of a list": written("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
    "folder for weights": folder_in_place_of_weights,
    "file for the folder": file_in_place_of_the_folder,
    "no folder": shutil.rmtree,
    "half an index": written("model.safetensors.index.json", "{"),
    "an index of nothing": written("model.safetensors.index.json", "{}"),
}
FAULTS = {**CONFIGS, **TOKENIZERS, **SHAPES, **WEIGHTS}
COMMANDS = {
    "probe": "probe MODEL --traces TRACES",
    "lessons": "lessons MODEL OUT --traces TRACES --set steps=1 lessons=1 plain=0",
    "ask": "ask who --model MODEL --retriever URL --set search.top_k=1",
    "world probe": "world probe --model MODEL",
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [
        {
            "question": f"tutor of {name} ?",
            "response": f"<search> tutor {name} </search>",
            "golden_answers": ["Eve"],
        }
        for name in ("Ada", "Otto")
    ]
    return write_lines(tmp_path_factory.mktemp("traces") / "traces.jsonl", lines)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_that_is_none_is_named(traces: Path, tmp_path: Path, name: str, fault: str) -> None:
    if name == "ask" and fault in SHAPES:
        pytest.skip("found by vLLM, as it loads the weights")
    if name == "world probe" and fault.endswith(("an index", "an index of nothing")):
        pytest.skip("an index beside a whole file, which transformers prefers")
    model = shutil.copytree(CHECKPOINT, tmp_path / "model")
    FAULTS[fault](model)
    with identity_server.server(identity_server.READY) as url:
        values = {"MODEL": model, "TRACES": traces, "OUT": tmp_path / "out", "URL": url}
        said = complaint(main, [str(values.get(part, part)) for part in COMMANDS[name].split()])
    last = said.strip().splitlines()[-1]
    assert str(model) in last, said
    assert "Fix: " in last or "holds no " in last, said
    assert not (tmp_path / "out").exists()


def test_the_models_own_parts_are_loaded() -> None:
    assert load_config(CHECKPOINT).vocab_size == len(load_tokenizer(CHECKPOINT))
    assert load_policy(CHECKPOINT, dtype="auto").config.num_hidden_layers == 2

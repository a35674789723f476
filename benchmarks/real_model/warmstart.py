"""Warm-start a given policy on the protocol, by verl's own SFT trainer, from recorded successful trajectories.

``python -m benchmarks.real_model.warmstart DATA_DIR MODEL --out DIR`` reads ``questions_nq.jsonl`` and
``trajectories_nq.jsonl.gz`` and writes ``train.parquet``, ``val.parquet`` and ``model/``, the inputs of
``sd-search local``. No trajectory of a validation question is trained on.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import AutoTokenizer

from benchmarks.arguments import add_option
from benchmarks.data.wiki18_mini import QUESTIONS, TRAJECTORIES, write_questions
from benchmarks.real_model.demonstrations import Example, read_examples
from benchmarks.real_model.sft_dataset import TokenDataset
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.errors import UserError
from sd_search_verl.launch.environment import cpu_environment

STEPS, BATCH, LEARNING_RATE, MAX_OBSERVATION_TOKENS = 16, 8, 2e-4, 192
_STEP = re.compile(r"step:(\d+) - .*?train/loss:([\d.]+)")


def build(data: Path, model: Path, out: Path, steps: int, batch: int, seed: int) -> str:
    """Write the questions and the warm-started model into ``out``; return what was made, as a line of text.

    Raises:
        UserError: ``model`` is no Hugging Face folder, or the trainer failed.
        DataError: see :func:`write_questions` and :func:`read_examples`.
    """
    if not (model / "config.json").is_file():
        raise UserError(f"{model} has no config.json; `sd-search model smollm2 {model}` writes such a folder")
    tokenizer = AutoTokenizer.from_pretrained(model)
    out.mkdir(parents=True, exist_ok=True)
    train, _ = write_questions(data, out)
    examples = read_examples(data / TRAJECTORIES, train, tokenizer, MAX_OBSERVATION_TOKENS)
    write_examples(Random(seed).sample(examples, len(examples)), out / "sft.parquet")
    loss = finetune(model, out, steps, batch)
    return f"{out}: train.parquet, val.parquet, model/ after {steps * batch} of {len(examples)} trajectories; {loss}"


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Write the rows that :class:`TokenDataset` reads."""
    columns = zip(*examples, strict=True)
    pq.write_table(pa.table(dict(zip(Example._fields, map(list, columns), strict=True))), path)


def finetune(model: Path, out: Path, steps: int, batch: int) -> str:
    """Train ``model`` on ``out/sft.parquet`` with verl's SFT trainer and write ``out/model``; return the losses.

    Raises:
        UserError: the trainer failed; the message holds the end of its log.
    """
    log, checkpoints = out / "sft.log", out / "sft"
    trainer = [sys.executable, "-m", "verl.trainer.sft_trainer"]
    command = [*trainer, *_overrides(model, out, steps, batch, checkpoints)]
    one_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    one_rank |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    # On a machine with a GPU too: this trains on the CPU, where flash-attention's cross entropy does not run.
    one_rank |= {"CUDA_VISIBLE_DEVICES": "", "VERL_DISABLE_FLASH_ATTN_CE": "1"}
    losses = _run(command, log, {**os.environ, **cpu_environment(os.environ), **one_rank}, steps)
    shutil.rmtree(out / "model", ignore_errors=True)
    (checkpoints / f"global_step_{steps}" / "huggingface").replace(out / "model")
    shutil.rmtree(checkpoints)
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}"


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str], steps: int) -> list[float]:
    losses = []
    with (
        log.open("w") as file,
        tqdm(total=steps, desc="warm start", unit="step") as bar,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            if found := _STEP.search(line):
                losses.append(float(found[2]))
                bar.set_postfix(loss=found[2][:5], refresh=False)
                bar.update()
    if process.returncode != 0 or len(losses) != steps:
        raise UserError(
            f"verl's SFT trainer failed; {log} ends:\n" + "\n".join(log.read_text().splitlines()[-15:])
        )
    return losses


def _overrides(model: Path, out: Path, steps: int, batch: int, checkpoints: Path) -> list[str]:
    return [
        f"data.train_files={out / 'sft.parquet'}",
        f"data.custom_cls.path=pkg://{TokenDataset.__module__}",
        f"data.custom_cls.name={TokenDataset.__name__}",
        f"data.train_batch_size={batch}",
        "data.max_token_len_per_gpu=1024",  # logits are 49,152 wide
        "data.num_workers=0",
        f"model.path={model}",
        "model.use_remove_padding=false",
        "model.enable_gradient_checkpointing=false",
        "+model.override_config.attn_implementation=sdpa",
        "engine.strategy=fsdp2",  # verl's FSDP1 refuses parameters on the CPU
        "engine.use_torch_compile=false",
        "+engine.mixed_precision.param_dtype=bf16",
        f"optim.lr={LEARNING_RATE}",
        "optim.lr_scheduler_type=cosine",
        "optim.lr_warmup_steps=4",
        "optim.min_lr_ratio=0.05",
        "optim.weight_decay=0",
        "optim.betas=[0.9,0.95]",
        "trainer.device=cpu",
        "trainer.logger=[console]",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=100",
        "trainer.resume_mode=disable",
        "checkpoint.save_contents=[hf_model]",
        f"trainer.default_local_dir={checkpoints}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.real_model.warmstart", description=__doc__)
    parser.add_argument("data", type=Path, help=f"folder with {QUESTIONS} and {TRAJECTORIES}")
    parser.add_argument("model", type=Path, help="Hugging Face folder of the policy")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_option(parser, "--steps", STEPS, "updates", "STEPS")
    add_option(parser, "--batch", BATCH, "trajectories of an update", "TRAJECTORIES")
    add_option(parser, "--seed", 0, "of the trajectories' order", "SEED")
    parser.set_defaults(action=_build)
    return run_command(parser, argv)


def _build(options: argparse.Namespace) -> int:
    model, out = options.model.resolve(), options.out.resolve()
    print(build(options.data, model, out, options.steps, options.batch, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())

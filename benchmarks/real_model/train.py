"""Evaluate, train and evaluate again a warm-started real model, with one retriever for all three.

``python -m benchmarks.real_model.train --run DIR --inputs INPUTS --corpus FILE`` takes the folder that
:mod:`benchmarks.real_model.warmstart` wrote.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.arguments import add_option
from sd_search_verl.command_line import Parser, run_command
from sd_search_verl.errors import UserError
from sd_search_verl.launch.process_tree import end_children_on_exit
from sd_search_verl.launch.retriever import build_index, serving_index

CONFIGS = ("cpu_smollm2", "gpu_smollm2")
CONFIG_DIR = Path(__file__).parents[2] / "hydra_configs"
SILENCE_S = 900


def run(options: argparse.Namespace) -> int:
    """Run the whole sequence; return 0.

    Raises:
        UserError: a command failed; it has said why.
        RetrieverFailedError: with the end of the log.
    """
    folder, inputs, corpus = options.run.resolve(), options.inputs.resolve(), options.corpus.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    build_index(corpus, folder / "index")
    with end_children_on_exit(), serving_index(corpus, folder / "index", folder) as url:
        evaluate = ["evaluate", "--questions", f"nq={inputs / 'val.parquet'}", "--retriever", url]
        settings = ["--set", f"sample={options.questions}", *_limits(options.config)]
        if options.questions:
            _sd_search(*evaluate, "--model", inputs / "model", "--out", folder / "before", *settings)
        _sd_search(
            *("local", "--run", folder, "--inputs", inputs, "--corpus", corpus, "--retriever", url),
            *("--config-dir", CONFIG_DIR, "--config", options.config, "--silence", SILENCE_S),
            *(("--steps", options.steps) if options.steps else ()),
            *options.overrides,
        )
        if options.questions:
            step = (folder / "latest_checkpointed_iteration.txt").read_text().strip()
            trained = folder / f"global_step_{step}"
            _sd_search(*evaluate, "--model", trained, "--out", folder / "after", *settings)
            _sd_search("compare", folder / "before", folder / "after")
    return 0


def _limits(name: str) -> list[str]:
    """Return the training's limits as settings of an evaluation."""
    config = OmegaConf.merge(*(OmegaConf.load(CONFIG_DIR / f"{part}.yaml") for part in ("smollm2", name)))
    rollout = config.actor_rollout_ref.rollout
    return [
        f"max_prompt_tokens={config.data.max_prompt_length}",
        f"max_response_tokens={config.data.max_response_length}",
        f"dtype={rollout.dtype}",
        f"concurrency={rollout.max_num_seqs}",
        *(f"search.{name}={value}" for name, value in config.search.items()),
    ]


def _sd_search(*arguments: object) -> None:
    command = [sys.executable, "-m", "sd_search_verl.cli", *map(str, arguments)]
    if subprocess.call(command) != 0:
        raise UserError(f"`sd-search {arguments[0]}` failed; its messages are above")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser(prog="python -m benchmarks.real_model.train", description=__doc__)
    parser.add_argument(
        "--inputs", type=Path, required=True, help="folder with train.parquet, val.parquet and model/"
    )
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines to index")
    parser.add_argument("--run", type=Path, required=True, help="folder to write")
    add_option(parser, "--questions", 100, "held-out questions; 0 = no evaluation", "QUESTIONS")
    parser.add_argument(
        "--config", choices=CONFIGS, default=CONFIGS[0], help="of the machine (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, metavar="STEPS", help="training steps (default: the config's)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, as main_ppo takes them")
    parser.set_defaults(action=run)
    return run_command(parser, argv)


if __name__ == "__main__":
    sys.exit(main())

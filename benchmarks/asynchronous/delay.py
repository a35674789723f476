"""Time the synchronous and the colocated asynchronous mode on a CPU, with a retriever that answers some queries late.

A proxy before the retriever holds every request for ``--delay`` seconds, and the share ``--slow`` of them twenty times
as long, with all queries that the client put into it. Pairs of runs alternate which mode comes first. Appends to
``benchmarks/asynchronous/delay.csv``; pairs that are in it are not run again.

    python -m benchmarks.asynchronous.delay --inputs WORLD --out runs/delay --pairs 5
"""

from __future__ import annotations

import http.client
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.arguments import add_option, command_parser
from benchmarks.machine import device_name
from benchmarks.table import read_json_lines, read_rows, write_rows
from sd_search_verl.launch.retriever import build_index, serving_index

OUT = Path(__file__).with_suffix(".csv")
CONFIGS = Path(__file__).resolve().parents[2] / "hydra_configs"
MODES = {"sync": "sd_search", "colocate_async": "sd_search_colocate_async"}
FACTOR = 20
PARTS = ("gen", "old_log_prob", "adv", "update_actor", "update_weights")
"""Of a step. The synchronous first step also holds the start of the agent loops, which the other mode starts before."""


@contextmanager
def slow_proxy(url: str, delay: float, slow: float, seed: int) -> Iterator[str]:
    """Serve a retriever through delays while the context lasts; yields the new /retrieve address."""
    target, draw, lock = urlsplit(url), random.Random(seed), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/retrieve"):
                with lock:
                    late = draw.random() < slow
                time.sleep(delay * (FACTOR if late else 1))
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            kept = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            connection.request(self.command, self.path, body or None, kept)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _forward

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/retrieve"
    finally:
        server.shutdown()


def run(mode: str, folder: Path, inputs: Path, url: str, steps: int) -> dict[str, float]:
    """Train, and return the seconds of all steps and what they were like."""
    command = [sys.executable, "-m", "sd_search_verl.cli", "local", "--run", str(folder)]
    command += ["--inputs", str(inputs), "--config-dir", str(CONFIGS), "--config", "cpu_demo"]
    command += ["--retriever", url, "--steps", str(steps), f"trainer.v1.trainer_mode={MODES[mode]}"]
    command += ["algorithm.rollout_correction.rollout_is=token", "search.timeout_s=60"]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    lines = read_json_lines(folder / "metrics.jsonl")
    return {
        "seconds": sum(line[f"timing_s/{part}"] for line in lines for part in PARTS),
        "seconds_update": sum(line["timing_s/update_actor"] for line in lines),
        "latency_s_p99": max(line["search/latency_s_p99"] for line in lines),
        "staleness_mean": statistics.mean(line.get("sd_search/staleness_mean", 0.0) for line in lines),
        "reward": statistics.mean(line["critic/score/mean"] for line in lines),
    }


def main() -> None:
    """Run the pairs that are missing and print the ratios."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--inputs",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the demo's data, model and corpus.jsonl",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    add_option(parser, "--pairs", 5, "pairs of runs, one of each mode", "PAIRS")
    add_option(parser, "--steps", 6, "training steps of a run", "STEPS")
    add_option(parser, "--delay", 0.4, "delay of a request", "S")
    add_option(parser, "--slow", 0.05, f"share of requests with {FACTOR} times the delay", "SHARE")
    parser.add_argument(
        "--csv",
        type=Path,
        default=OUT,
        metavar="FILE",
        help="table to add to (default: delay.csv beside this program)",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.csv) if args.csv.exists() else []
    corpus, index = args.inputs / "corpus.jsonl", args.out / "index"
    if not index.exists():
        build_index(corpus, index)
    with serving_index(corpus, index, args.out) as url:
        for pair in range(args.pairs):
            for mode in list(MODES)[:: 1 if pair % 2 == 0 else -1]:
                if any(row["pair"] == str(pair) and row["mode"] == mode for row in rows):
                    continue
                with slow_proxy(url, args.delay, args.slow, pair) as proxy:
                    found = run(mode, args.out / f"{mode}-{pair}", args.inputs, proxy, args.steps)
                values = {name: round(value, 4) for name, value in found.items()}
                row = {"device": device_name("cpu"), "pair": pair, "mode": mode, "steps": args.steps}
                rows.append({name: str(v) for name, v in (row | {"delay_s": args.delay, **values}).items()})
                write_rows(args.csv, rows)
                print(rows[-1], flush=True)
    print(ratios(rows))


def ratios(rows: list[dict[str, str]]) -> list[float]:
    """Return colocated over synchronous seconds of each whole pair."""
    seconds = {(row["pair"], row["mode"]): float(row["seconds"]) for row in rows}
    pairs = sorted({pair for pair, _ in seconds})
    both = [pair for pair in pairs if all((pair, mode) in seconds for mode in MODES)]
    return [seconds[pair, "colocate_async"] / seconds[pair, "sync"] for pair in both]


if __name__ == "__main__":
    main()

"""Load for retrieval servers: throughput, latency, CPU time, memory; alternating between servers (A B B A).

    python -m benchmarks.retriever.load --server a=URL@PID --server b=URL@PID --queries FILE --clients 1,64,256

Closed loop: every client sends its next query when the last one is answered. With ``--rate`` the loop is
open: queries arrive at that rate, whatever the server does. Rows go to ``benchmarks/retriever/load.csv``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks.arguments import add_option, command_parser
from benchmarks.table import append_rows

HEAD = "POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """A server under load; ``pid`` 0 means that its process cannot be watched."""

    name: str
    url: str
    pid: int

    @classmethod
    def parse(cls, text: str) -> Target:
        name, _, rest = text.partition("=")
        url, _, pid = rest.partition("@")
        return cls(name, url, int(pid or 0))


@dataclass
class Row:
    """One line of the CSV."""

    device: str
    server: str
    corpus: str
    clients: int
    rate: float
    duplicates: float
    seconds: float
    queries: int
    qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms_per_query: float
    outside_cpu: float
    """CPU seconds per second that neither server nor client used: other load on the machine."""
    rss_anon_mb: float
    rss_file_mb: float
    errors: int
    throttled: int


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its threads so far."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / TICKS


def machine_seconds() -> float:
    """Return the busy CPU time of the whole machine so far."""
    values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(values) - values[3] - values[4]) / TICKS


def memory_mb(pid: int) -> tuple[float, float]:
    """Return (anonymous, file-backed) resident memory."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024, int(lines["RssFile"].split()[0]) / 1024


class Connection:
    """A kept HTTP/1.1 connection with as little work per request as possible: the client shares the cores."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes) -> int:
        """Return the status of the answer; 0 when the connection failed."""
        try:
            if self._reader is None or self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self._port, limit=2**24
                )
            head = HEAD.format(len(body))
            self._writer.write(head.encode() + body)
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            await self._reader.readexactly(length)
            return int(answer[9:12])
        except (OSError, asyncio.IncompleteReadError, IndexError):
            self.close()
            return 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def drawer(queries: list[str], duplicates: float, seed: int) -> Callable[[], bytes]:
    """Return bodies of one query each; with probability ``duplicates`` one of the last hundred is asked again."""
    rng = random.Random(seed)
    order = rng.sample(queries, len(queries))
    state = {"next": 0}

    def draw() -> bytes:
        recent = state["next"]
        if recent and rng.random() < duplicates:
            query = order[(recent - 1 - rng.randrange(min(100, recent))) % len(order)]
        else:
            query = order[recent % len(order)]
            state["next"] += 1
        return json.dumps({"queries": [query], "topk": 3, "return_scores": True}).encode()

    return draw


async def closed_loop(
    url: str, clients: int, seconds: float, draw: Callable[[], bytes]
) -> list[tuple[int, float]]:
    """Send requests back to back and return (status, latency in s) of every request."""
    seen: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(url)
        while time.perf_counter() < end:
            start = time.perf_counter()
            status = await connection.post(draw())
            seen.append((status, time.perf_counter() - start))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seen


async def open_loop(
    url: str, rate: float, seconds: float, draw: Callable[[], bytes]
) -> list[tuple[int, float]]:
    """Send requests at random times, ``rate`` a second on average; latency counts from the planned time."""
    seen: list[tuple[int, float]] = []
    idle: list[Connection] = []
    rng = random.Random(0)

    async def one(planned: float) -> None:
        connection = idle.pop() if idle else Connection(url)
        status = await connection.post(draw())
        seen.append((status, time.perf_counter() - planned))
        idle.append(connection)

    start = planned = time.perf_counter()
    tasks = []
    while planned < start + seconds:
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        tasks.append(asyncio.create_task(one(planned)))
        planned += rng.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return seen


def measure(target: Target, options: argparse.Namespace, clients: int, seed: int) -> Row:
    """Measure one slice of load on one server."""
    draw = drawer(options.query_list, options.duplicates, seed)
    outside = machine_seconds() - time.process_time()
    cpu = cpu_seconds(target.pid) if target.pid else 0.0
    start = time.perf_counter()
    if options.rate:
        seen = uvloop.run(open_loop(target.url, options.rate, options.seconds, draw))
    else:
        seen = uvloop.run(closed_loop(target.url, clients, options.seconds, draw))
    took = time.perf_counter() - start
    cpu = cpu_seconds(target.pid) - cpu if target.pid else 0.0
    outside = machine_seconds() - time.process_time() - outside - cpu
    anonymous, mapped = memory_mb(target.pid) if target.pid else (0.0, 0.0)
    statuses = Counter(status for status, _ in seen)
    times = sorted(latency * 1000 for status, latency in seen if status == 200) or [float("nan")]
    answered = statuses[200]
    return Row(
        device=options.device, server=target.name, corpus=options.corpus, clients=clients,
        rate=options.rate, duplicates=options.duplicates, seconds=round(took, 2), queries=answered,
        qps=round(answered / took, 1),
        p50_ms=round(times[len(times) // 2], 2), p95_ms=round(times[int(len(times) * 0.95)], 2),
        p99_ms=round(times[int(len(times) * 0.99)], 2),
        cpu_ms_per_query=round(cpu * 1000 / max(answered, 1), 3), outside_cpu=round(outside / took, 2),
        rss_anon_mb=round(anonymous, 1), rss_file_mb=round(mapped, 1),
        errors=sum(n for status, n in statuses.items() if status not in (200, 429)), throttled=statuses[429],
    )  # fmt: skip


def parser_of(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the options of every program that loads servers."""
    parser = command_parser(description)
    text = "a server, its name in the table and its process; may be repeated"
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL@PID", help=text)
    parser.add_argument("--queries", type=Path, required=True, help="file with one query a line")
    add_option(parser, "--corpus", "", "name of the corpus in the table")
    add_option(parser, "--seconds", 5.0, "length of one slice", "S")
    add_option(parser, "--rounds", rounds, "rounds: A B, then B A, and so on", "ROUNDS")
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    add_option(parser, "--device", device, "name of this machine in the table")
    add_option(parser, "--csv", Path(__file__).with_suffix(".csv"), "file of the rows")
    return parser


def main() -> None:
    parser = parser_of(__doc__, rounds=2)
    add_option(parser, "--clients", "1,64,256", "numbers of clients")
    add_option(parser, "--duplicates", 0.0, "share of queries asked before", "SHARE")
    add_option(parser, "--rate", 0.0, "open loop, in queries a second; 0 = closed", "QUERIES/S")
    options = parser.parse_args()
    options.query_list = options.queries.read_text(encoding="utf-8").splitlines()
    targets = [Target.parse(text) for text in options.server]
    for clients in map(int, options.clients.split(",")):
        for number in range(options.rounds):
            for target in targets if number % 2 == 0 else targets[::-1]:
                row = measure(target, options, clients, seed=number)
                append_rows(options.csv, [asdict(row)])
                print(
                    f"{row.server:>10} {clients:>4} clients {row.qps:>8} QPS  p50 {row.p50_ms:>8}  "
                    f"p99 {row.p99_ms:>8} ms  {row.cpu_ms_per_query:>7} CPU-ms  "
                    f"errors {row.errors}  429s {row.throttled}  outside {row.outside_cpu}"
                )


if __name__ == "__main__":
    main()

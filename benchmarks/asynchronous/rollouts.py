"""Simulate rollouts: engines that generate, and retrievers as a queue that all engines share.

Turns, queries and latencies are drawn from what was recorded; what a GPU does is a formula (:class:`Machine`).

    generation   all running turns of an engine advance at one pace: token_s + batch_s * running seconds a token
    retrieval    a query waits for one of the ``replicas * cores`` cores of the retrievers, then takes its service time;
                 the share ``slow`` of the queries takes ``slow_factor`` times as long
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# fmt: off
TURNS: list[tuple[int, ...]] = [
    (10, 8), (12, 8), (12, 9), (13, 9), (15, 8), (15, 9), (15, 11), (14, 15), (11, 11, 11), (30, 9), (35, 10), (44, 9),
    (50, 11), (53, 11), (55, 11), (59, 9), (58, 12), (64, 7), (65, 8), (67, 7), (66, 10), (68, 9), (71, 7), (65, 15),
    (70, 11), (70, 13), (73, 11), (77, 8), (77, 10), (80, 8), (82, 8), (84, 9), (88, 8), (93, 7), (92, 16), (105, 16),
    (138, 8), (363, 8), (500,), (500,),
]
"""Tokens that the policy wrote in each turn: every fiftieth of 2,000 recorded trajectories of Qwen2.5-3B search agents
on Natural Questions, in order of length."""
# fmt: on

SERVICE_S = 0.00065
"""CPU time of a query: our server, BM25, wiki18-mini, 512 clients (benchmarks/retriever/load.csv, median of 15)."""
LATENCY_S = ((0.0, 0.0016), (0.5, 0.0032), (0.95, 0.0062), (0.99, 0.0095), (1.0, 0.019))
"""Its latency at 200 queries a second, as (share, seconds); only the values at 0.5, 0.95 and 0.99 were recorded."""


@dataclass(frozen=True)
class Machine:
    """What is simulated; times in seconds.

    Attributes:
        gpus: of the run. ``separate_async`` gives the share ``rollout_share`` of them to rollouts.
        questions: of a step, however many GPUs there are.
        token_s, batch_s: an engine's time for one token of each running turn: constant part, and part a running turn.
        train_s_per_rollout: GPU time of everything but rollouts.
        sync_s: handing the new weights on.
        poll_s: between two looks for complete questions.
        service_factor: how much heavier a query is than :data:`SERVICE_S`.
        warmup: batches in flight before the first step, of the asynchronous modes.
        turns: tokens of the turns of rollouts to draw from.
        latency_s: points (share, seconds) of the latency of a query.
    """

    gpus: int = 8
    questions: int = 512
    group: int = 5
    token_s: float = 0.012
    batch_s: float = 0.00004
    train_s_per_rollout: float = 0.1
    sync_s: float = 2.0
    poll_s: float = 2.0
    rollout_share: float = 0.5
    replicas: int = 1
    cores: int = 16
    service_factor: float = 1.0
    slow: float = 0.0
    slow_factor: float = 20.0
    warmup: int = 1
    turns: Sequence[tuple[int, ...]] = field(default=tuple(TURNS), repr=False)
    latency_s: Sequence[tuple[float, float]] = field(default=LATENCY_S, repr=False)


class Engine:
    """Running turns of one rollout engine; ``progress`` counts the tokens that each of them has got."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.progress, self.since, self.paused, self.changes = machine, 0.0, 0.0, False, 0
        self.running: list[tuple[float, int]] = []  # (progress at which the turn ends, rollout)

    def advance(self, now: float) -> None:
        """Give the running turns what they got since the last call."""
        if self.running and not self.paused:
            self.progress += (now - self.since) / self._token_s()
        self.since = now
        self.changes += 1

    def next_end(self) -> float:
        """Return when the first running turn ends."""
        if self.paused or not self.running:
            return float("inf")
        return self.since + max(0.0, self.running[0][0] - self.progress) * self._token_s()

    def _token_s(self) -> float:
        return self.machine.token_s + self.machine.batch_s * len(self.running)


class Simulation:
    """Rollouts of one run: engines, retrievers, and the questions that are complete."""

    def __init__(self, machine: Machine, engines: int, seed: int) -> None:
        self.machine, self.draw, self.now, self.step = machine, random.Random(seed), 0.0, 0
        self.engines = [Engine(machine) for _ in range(engines)]
        self.free = [0.0] * (machine.replicas * machine.cores)  # when each core of the retrievers is free
        # (when, engine or -1, the engine's changes or rollout)
        self.events: list[tuple[float, int, int]] = []
        self.rollouts: list[tuple[int, list[int], int]] = []  # (question, tokens of the turns left, engine)
        self.open: dict[int, int] = {}  # rollouts that a question waits for
        self.begun: dict[int, int] = {}  # step at which a question was submitted
        self.complete: list[int] = []
        self.waits: list[float] = []

    def submit(self, questions: int) -> None:
        """Start the rollouts of new questions."""
        for _ in range(questions):
            question = len(self.begun)
            self.begun[question], self.open[question] = self.step, self.machine.group
            for _ in range(self.machine.group):
                turns, rollout = self.draw.choice(self.machine.turns), len(self.rollouts)
                self.rollouts.append((question, list(turns), rollout % len(self.engines)))
                self._generate(rollout)

    def run(self, until: Callable[[], bool], limit: float = float("inf")) -> None:
        """Let time pass until a condition holds, at most until ``limit``."""
        while not until() and self.events and self.events[0][0] <= limit:
            when, place, what = heapq.heappop(self.events)
            if place < 0:
                self.now = when
                self._generate(what)
            elif self.engines[place].changes == what:  # otherwise its pace has changed since
                self.now = when
                self._end_turn(place)
        if limit != float("inf"):
            self.now = limit

    def pause(self, paused: bool) -> None:
        """Stop generation, or let it go on; searches return all the same."""
        for place, engine in enumerate(self.engines):
            engine.advance(self.now)
            engine.paused = paused
            self._expect(place)

    def _expect(self, place: int) -> None:
        engine = self.engines[place]
        if (when := engine.next_end()) < float("inf"):
            heapq.heappush(self.events, (when, place, engine.changes))

    def _generate(self, rollout: int) -> None:
        _, turns, place = self.rollouts[rollout]
        engine = self.engines[place]
        engine.advance(self.now)
        heapq.heappush(engine.running, (engine.progress + turns.pop(0), rollout))
        self._expect(place)

    def _end_turn(self, place: int) -> None:
        engine = self.engines[place]
        engine.advance(self.now)
        _, rollout = heapq.heappop(engine.running)
        self._expect(place)
        question, turns, _ = self.rollouts[rollout]
        if turns:
            self._search(rollout)
            return
        self.open[question] -= 1
        if not self.open[question]:
            self.complete.append(question)

    def _search(self, rollout: int) -> None:
        machine = self.machine
        slow = machine.slow_factor if self.draw.random() < machine.slow else 1.0
        ready = heapq.heappop(self.free)
        begin = max(self.now, ready)
        heapq.heappush(self.free, begin + SERVICE_S * machine.service_factor * slow)
        self.waits.append(begin - self.now)
        latency = _quantile(machine.latency_s, self.draw.random()) * machine.service_factor * slow
        heapq.heappush(self.events, (begin + latency, -1, rollout))


def _quantile(points: Sequence[tuple[float, float]], share: float) -> float:
    for (low, a), (high, b) in pairwise(points):
        if share <= high:
            return a + (b - a) * (share - low) / (high - low)
    return points[-1][1]

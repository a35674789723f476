"""Overload, deadlines, departing clients, equal queries of one moment, and stopping."""

import http.client
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from support.processes import wait_until
from support.retrieval_server import answered, metric, post, raw
from support.slow_part import SlowPart

from retriever_server.launcher import ServerProcess, serving


def test_a_full_queue_is_429_with_retry_after_and_empties(
    slow: ServerProcess, closed: threading.Event
) -> None:
    admitted = metric(slow.url, "retriever_queries_total")
    bodies = [{"queries": [f"full {i} {j}" for j in range(15)]} for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = [
            pool.submit(requests.post, f"{slow.url}/retrieve", json=body, timeout=60) for body in bodies
        ]
        wait_until(lambda: answered(slow.url, 429) > 0)
        closed.set()
        found = [answer.result() for answer in answers]
    assert {200, 429} <= {answer.status_code for answer in found} <= {200, 429, 504}
    for answer in found:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert "queue is full" in answer.json()["error"]["message"]
        elif answer.status_code == 200:
            assert [len(hits) for hits in answer.json()["result"]] == [1] * 15
    of_admitted = 15 * sum(answer.status_code != 429 for answer in found)
    assert metric(slow.url, "retriever_queries_total") == admitted + of_admitted
    assert post(slow.url, {"queries": ["after the rush"]})[0] == 200
    assert metric(slow.url, "retriever_queued") == 0


def test_a_deadline_is_504(slow: ServerProcess, closed: threading.Event) -> None:
    start = time.monotonic()
    status, answer = post(slow.url, {"queries": ["late"]})
    assert status == 504
    assert 1.9 < time.monotonic() - start < 10
    assert "2 s" in answer["error"]["message"]
    closed.set()
    assert post(slow.url, {"queries": ["prompt"]})[0] == 200


def test_twins_fly_once(slow: ServerProcess, slow_part: SlowPart, closed: threading.Event) -> None:
    before = metric(slow.url, "retriever_joined_total")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, slow.url, {"queries": ["twin", "twin"]}) for _ in range(4)]
        wait_until(lambda: metric(slow.url, "retriever_joined_total") == before + 3)
        closed.set()
        found = [answer.result() for answer in answers]
    assert all(answer == found[0] for answer in found)
    assert sum(batch.count("twin") for batch in slow_part.queries) == 1


def test_work_nobody_waits_for_is_dropped(
    slow: ServerProcess, slow_part: SlowPart, closed: threading.Event
) -> None:
    before, gone = metric(slow.url, "retriever_cancelled_total"), answered(slow.url, 499)
    busy = [threading.Thread(target=post, args=[slow.url, {"queries": [f"busy {i}"]}]) for i in range(4)]
    for thread in busy:
        thread.start()
    wait_until(lambda: len(slow_part.queries) == 4)  # the four workers are busy: what comes now is queued
    connection = http.client.HTTPConnection(slow.url.removeprefix("http://"))
    connection.request("POST", "/retrieve", json.dumps({"queries": ["left alone"]}))
    wait_until(lambda: metric(slow.url, "retriever_queued") == 1)
    connection.close()
    wait_until(lambda: answered(slow.url, 499) == gone + 1)
    closed.set()
    for thread in busy:
        thread.join()
    assert post(slow.url, {"queries": ["next"]})[0] == 200
    assert metric(slow.url, "retriever_cancelled_total") == before + 1
    assert not any("left alone" in batch for batch in slow_part.queries)


def test_a_search_that_hangs_does_not_hold_a_server_that_is_stopped(
    slow_part: SlowPart, closed: threading.Event
) -> None:
    arguments = ["--backend", "remote", "--remote-urls", slow_part.url, "--drain-s", "1"]
    with serving(*arguments) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            raw, server.url, b'POST /retrieve HTTP/1.1\r\nContent-Length: 17\r\n\r\n{"queries":["x"]}'
        )
        wait_until(lambda: bool(slow_part.queries))
        start = time.monotonic()
        assert server.stop(30) == 0
        assert time.monotonic() - start < 8
        answer.result()
        assert "cut off" in server.log.read_text()
        assert not server.log.with_name("retriever.url").exists()


def test_concurrent_clients_each_get_their_own_answers(bm25: ServerProcess) -> None:
    def client(number: int) -> int:
        rng = random.Random(number)
        connection = http.client.HTTPConnection(bm25.url.removeprefix("http://"), timeout=60)
        for _ in range(25):
            wanted = rng.choices(range(300), k=rng.randint(1, 5))
            topk, scores = rng.randint(1, 4), rng.random() < 0.5
            body = {"queries": [f"passage{n} castle" for n in wanted], "topk": topk, "return_scores": scores}
            connection.request("POST", "/retrieve", json.dumps(body))
            result = json.loads(connection.getresponse().read())["result"]
            assert [len(items) for items in result] == [topk] * len(wanted)
            first = [items[0]["document"] if scores else items[0] for items in result]
            assert [document["id"] for document in first] == [f"doc-{n}" for n in wanted]
        return 25

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(client, range(32))) == 800

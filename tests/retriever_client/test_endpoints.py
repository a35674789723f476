"""The circuit breaker and the order of servers."""

import time

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.retriever_client import endpoints
from sd_search_verl.retriever_client.endpoints import (
    OPEN_AFTER,
    Endpoint,
    by_preference,
    document_url,
    is_own_machine,
)


def test_the_circuit_opens_after_failures_in_a_row_and_closes_with_a_success() -> None:
    endpoint = Endpoint.at("http://a:1")
    assert [endpoint.failed() for _ in range(OPEN_AFTER - 1)] == [False] * (OPEN_AFTER - 1)
    endpoint.succeeded()
    assert [endpoint.failed() for _ in range(OPEN_AFTER + 1)] == [False] * (OPEN_AFTER - 1) + [True, False]
    assert endpoint.open_until > time.monotonic()
    endpoint.succeeded()
    assert (endpoint.failures, endpoint.open_until) == (0, 0.0)


def test_pauses_grow_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints.random, "uniform", lambda low, high: high)
    endpoint, pauses = Endpoint("u"), []
    for _ in range(12):
        endpoint.failed()
        pauses.append(round(endpoint.open_until - time.monotonic()))
    assert pauses[OPEN_AFTER - 1 :] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    endpoint.failures = 2000  # a server that is down for days
    endpoint.failed()
    assert round(endpoint.open_until - time.monotonic()) == 30


def test_healthy_and_idle_servers_come_first_and_open_circuits_only_when_alone() -> None:
    now = time.monotonic()
    busy, idle, failed = Endpoint("busy", in_flight=5), Endpoint("idle"), Endpoint("failed", failures=1)
    soon, late = (
        Endpoint("soon", failures=9, open_until=now + 5),
        Endpoint("late", failures=9, open_until=now + 9),
    )
    assert by_preference([late, busy, soon, failed, idle]) == [idle, busy, failed]
    assert by_preference([late, soon]) == [soon]
    late.open_until = now - 1  # its pause is over: it is tried again
    assert by_preference([late, soon]) == [late]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", "http://h:1/retrieve"),
        ("https://h/", "https://h/retrieve"),
        ("http://h/search/", "http://h/search"),
    ],
)
def test_a_bare_host_gets_the_usual_path(url: str, expected: str) -> None:
    assert Endpoint.at(url).url == expected


@pytest.mark.parametrize(
    ("url", "searched", "document"),
    [
        ("http://h:1/retrieve?index=a", "http://h:1/retrieve?index=a", "http://h:1/document/x%2Fy?index=a"),
        ("http://h:1?index=a", "http://h:1/retrieve?index=a", "http://h:1/document/x%2Fy?index=a"),
        ("http://h:1/api/retrieve#part", "http://h:1/api/retrieve", "http://h:1/api/document/x%2Fy"),
        ("http://[::1]:8/", "http://[::1]:8/retrieve", "http://[::1]:8/document/x%2Fy"),
    ],
)
def test_what_follows_the_path_stays_behind_it(url: str, searched: str, document: str) -> None:
    found = Endpoint.at(url).url
    assert found == searched
    assert document_url(found, "x/y") == document


@pytest.mark.parametrize("url", ["http://h :1", "http://my host/retrieve", "http://h:1\thttp://g:2"])
def test_an_address_with_a_space_in_it_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="must start with http"):
        Endpoint.at(url)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8000/retrieve", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://0.0.0.0:8000", True),
        ("http://10.0.0.5:8000", False),
        ("http://head:8000", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_an_address_of_the_machine_that_asks(url: str, own: bool) -> None:
    assert is_own_machine(url) is own

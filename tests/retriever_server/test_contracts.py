"""Names of uvicorn and Ray Serve that no documentation promises, and that the server overrides or reads."""

import inspect
from typing import Any

import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import Server


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("connection_made", ["self", "transport"]),
        ("connection_lost", ["self", "exc"]),
        ("data_received", ["self", "data"]),
        ("on_message_begin", ["self"]),
        ("on_message_complete", ["self"]),
    ],
)
def test_uvicorns_http_protocol_has_the_methods_that_ours_overrides(name: str, expected: list[str]) -> None:
    method = getattr(httptools_impl.HttpToolsProtocol, name, None)
    assert method is not None, (
        f"uvicorn's HttpToolsProtocol has no {name}() any more; http_protocol.py overrides it"
    )
    found = parameters(method)
    assert found == expected, (
        f"uvicorn's HttpToolsProtocol.{name} takes {found}; http_protocol.py overrides it"
    )


@pytest.mark.parametrize(
    "name", ["self.loop =", "self.transport =", "self.cycle =", "self.response_started ="]
)
def test_uvicorns_http_protocol_has_the_attributes_that_ours_reads(name: str) -> None:
    source = inspect.getsource(httptools_impl)
    assert name in source.replace(":", " ="), (
        f"uvicorn's protocol does not set {name[:-2]}; http_protocol.py reads it"
    )


def test_uvicorns_server_captures_signals_in_a_context_manager() -> None:
    for name, expected in (("capture_signals", ["self"]), ("handle_exit", ["self", "sig", "frame"])):
        method = getattr(Server, name, None)
        assert method is not None, f"uvicorn's Server has no {name}() any more; server.py relies on it"
        assert parameters(method) == expected, f"uvicorn's Server.{name} takes {parameters(method)}"


def test_ray_serve_builds_the_application_through_the_method_that_the_replica_defines() -> None:
    replica = pytest.importorskip("ray.serve._private.replica", reason="needs ray[serve]")
    from retriever_server.ray_serve import Retriever

    found = getattr(replica, "SERVE_BUILD_ASGI_APP_METHOD", None)
    assert found == "__serve_build_asgi_app__", (
        f"Ray Serve calls {found} for the application; ray_serve.py defines another"
    )
    build = getattr(Retriever.func_or_class, found, None)
    assert build is not None, "ray_serve.py's replica does not define the method that Ray Serve calls"
    assert parameters(build) == ["self"], (
        f"{found} of ray_serve.py takes {parameters(build)}; Ray Serve passes nothing"
    )

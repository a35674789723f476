"""A loop inside Java, put together from method handles: one call from Python for a batch of queries.

Every call into Java gives the interpreter's lock away and waits to have it back. With three calls a query the
search threads and the event loop waited for each other (``docs/retriever.md`` has the difference).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import jvm

INT, BOOLEAN = "int", "boolean"
STRING, OBJECT = "java.lang.String", "java.lang.Object"
STRINGS = "[Ljava.lang.String;"
HANDLES = "java.lang.invoke.MethodHandles"


def signature(result: str, *parameters: str) -> Any:
    """The ``MethodType`` of a method with these types, each named as ``Class.forName`` does, or a primitive."""
    types = [_type(name) for name in parameters]
    return jvm.java_class("java.lang.invoke.MethodType").methodType(_type(result), types)


def method(receiver: Any, name: str, result: str, *parameters: str) -> Any:
    """``receiver.name`` as a handle."""
    return _lookup().bind(receiver, name, signature(result, *parameters))


def unbound(class_name: str, name: str, result: str, *parameters: str) -> Any:
    """The method of a class as a handle, whose first argument is the receiver."""
    return _lookup().findVirtual(_type(class_name), name, signature(result, *parameters))


def then(first: Any, second: Any) -> Any:
    """``second(first(...), ...)``: the result of one handle is the first argument of the other, which may take more."""
    return jvm.java_class(HANDLES).collectArguments(second, 0, first)


def with_last(handle: Any, *values: Any) -> Any:
    """``handle`` with its last arguments fixed."""
    return jvm.java_class(HANDLES).insertArguments(
        handle, handle.type().parameterCount() - len(values), *values
    )


def for_each_line(step: Any) -> Callable[[str, int], str]:
    """A function that calls ``step`` for every line of a text, in Java, and gives its results, a line each.

    Args:
        step: handle of ``(String, int) -> String``; its int is the function's second argument.
    """
    handles, integer = jvm.java_class(HANDLES), jvm.java_class("java.lang.Integer")
    string, strings = _type(STRING), _type(STRINGS)
    concat = unbound(STRING, "concat", STRING, STRING)
    split = with_last(
        with_last(unbound(STRING, "split", STRINGS, STRING, INT), integer(-1)), "\n"
    )  # all parts
    line = then(step, with_last(concat, "\n"))  # (line, n) -> result and line end
    line = then(handles.arrayElementGetter(strings), line)  # (lines, i, n)
    body = handles.collectArguments(concat, 1, line)  # (so far, lines, i, n)
    body = handles.permuteArguments(body, signature(STRING, STRING, INT, STRINGS, INT), 0, 2, 1, 3)
    loop = handles.countedLoop(handles.arrayLength(strings), handles.constant(string, ""), body)
    whole = then(split, loop)
    pair = jvm.java_class("java.util.List").of  # static: no receiver that another thread could exchange
    return lambda text, n: whole.invokeWithArguments(pair(text, n))


def _lookup() -> Any:
    return jvm.java_class(HANDLES).publicLookup()


def _type(name: str) -> Any:
    primitives = {INT: "java.lang.Integer", BOOLEAN: "java.lang.Boolean"}
    if name in primitives:
        return jvm.java_class(primitives[name]).TYPE
    return jvm.java_class("java.lang.Class").forName(name)

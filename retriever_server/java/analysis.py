"""Lucene's analysers, chosen as Anserini's indexer chooses them: an index is searched as it was indexed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from ..options import SettingsError
from . import jvm

Stemmer = Literal["porter", "krovetz", "none"]

_PACKAGE = "io.anserini.analysis"


class Analysis(NamedTuple):
    """Options of Anserini's ``IndexCollection`` that decide how text becomes terms."""

    language: str = "en"
    stemmer: Stemmer = "porter"
    keep_stopwords: bool = False
    pretokenized: bool = False


ENGLISH = Analysis()
"""Anserini's defaults, with which build_index builds."""


def analyzer(analysis: Analysis) -> Any:
    """Return the Java object.

    Raises:
        SettingsError: Anserini has no analyser for the language.
    """
    if analysis.pretokenized or analysis.language == "sw":  # Anserini splits Swahili at spaces alone
        return jvm.java_class("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()
    if analysis.language == "en":
        english = jvm.java_class(f"{_PACKAGE}.DefaultEnglishAnalyzer")
        return english.fromArguments(analysis.stemmer, analysis.keep_stopwords, None)
    languages = jvm.java_class(f"{_PACKAGE}.AnalyzerMap")
    known = sorted(["en", "sw", *map(str, languages.analyzerMap.keySet().toArray())])
    if analysis.language not in known:
        raise SettingsError(f"--language {analysis.language} is none of {', '.join(known)}.")
    return languages.getLanguageSpecificAnalyzer(analysis.language)


def terms(text: str, of: Any) -> list[str]:
    """Return the terms that an analyser makes of a text."""
    return list(jvm.java_class(f"{_PACKAGE}.AnalyzerUtils").analyze(of, text))

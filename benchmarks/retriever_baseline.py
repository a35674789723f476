"""A retrieval server as the common ones behave, to measure against.

A synchronous handler loops over the queries one by one, searches with Anserini's SimpleSearcher, then fetches
and parses every hit's stored document.
"""

from __future__ import annotations

import json
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.arguments import command_parser
from retriever_server.java import jvm


class Query(BaseModel):
    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


def make_app(index: str) -> FastAPI:
    jvm.start()
    searcher = jvm.java_class("io.anserini.search.SimpleSearcher")(index)
    searcher.set_bm25(0.9, 0.4)
    app = FastAPI()

    @app.post("/retrieve")
    def retrieve(request: Query) -> dict[str, Any]:
        topk = request.topk or 3
        results = []
        for query in request.queries:
            hits = searcher.search(query, topk)
            contents = [json.loads(searcher.doc_raw(hit.docid))["contents"] for hit in hits]
            documents = [
                {
                    "title": text.split("\n")[0].strip('"'),
                    "text": "\n".join(text.split("\n")[1:]),
                    "contents": text,
                }
                for text in contents
            ]
            scored = [{"document": doc, "score": hit.score} for doc, hit in zip(documents, hits, strict=True)]
            results.append(scored if request.return_scores else documents)
        return {"result": results}

    return app


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--index", required=True, help="Lucene folder with stored raw documents")
    parser.add_argument("--port", type=int, required=True, metavar="PORT", help="port to serve on")
    arguments = parser.parse_args()
    uvicorn.run(
        make_app(arguments.index),
        host="127.0.0.1",
        port=arguments.port,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()

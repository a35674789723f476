"""An HTTP retrieval server for training search agents: BM25 and dense search behind one small contract.

``python -m retriever_server.build_index`` makes an index from a corpus, ``python -m retriever_server``
serves it. A package of its own: it imports nothing of sd_search_verl, and torch only where a dense encoder
needs it.
"""

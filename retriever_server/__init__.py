"""HTTP retrieval server for training search agents: BM25 and dense search behind one contract.

``python -m retriever_server.build_index`` builds an index from a corpus, ``python -m retriever_server`` serves it.
The package imports nothing of sd_search_verl, and torch only for a dense encoder.
"""

__version__ = "0.1.0"

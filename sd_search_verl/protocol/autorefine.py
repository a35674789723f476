"""The protocol of AutoRefine (https://arxiv.org/abs/2505.11277): documents tags, and a refine span after each."""

from dataclasses import replace

from sd_search_verl.protocol.search_r1 import SEARCH_R1

AUTOREFINE = replace(
    SEARCH_R1,
    name="autorefine",
    observation_open="<documents>",
    observation_close="</documents>",
    prompt_template=(
        "You are a helpful assistant excel at answering questions with multi-turn search engine calling. "
        "To answer questions, you must first reason through the available information using <think> and </think>. "
        "If you identify missing knowledge, you may issue a search request using <search> query </search> at any time. "
        "The retrieval system will provide you with the three most relevant documents enclosed in <documents> and "
        "</documents>. After each search, you need to summarize and refine the existing documents in <refine> and "
        "</refine>. You may send multiple search requests if needed. Once you have sufficient information, provide a "
        "concise final answer using <answer> and </answer>. For example, <answer> Donald Trump </answer>. "
        "Question: {question}\n"
    ),
)

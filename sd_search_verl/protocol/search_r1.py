"""The protocol of Search-R1 (https://arxiv.org/abs/2503.09516), text for text."""

from sd_search_verl.protocol.tags import TagProtocol

SEARCH_R1 = TagProtocol(
    name="search_r1",
    observation_open="<information>",
    observation_close="</information>",
    prompt_template=(
        "Answer the given question. "
        "You must conduct reasoning inside <think> and </think> first every time you get new information. "
        "After reasoning, if you find you lack some knowledge, you can call a search engine by <search> query "
        "</search> and it will return the top searched results between <information> and </information>. "
        "You can search as many times as your want. "
        "If you find no further external knowledge needed, you can directly provide the answer inside <answer> and "
        "</answer>, without detailed illustrations. For example, <answer> Beijing </answer>. Question: {question}\n"
    ),
    invalid_action=(
        "\nMy previous action is invalid. "
        "If I want to search, I should put the query between <search> and </search>. "
        "If I want to give the final answer, I should put the answer between <answer> and </answer>. "
        "Let me try again.\n"
    ),
)

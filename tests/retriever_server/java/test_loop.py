"""A loop inside Java calls its step for every line, in order, from several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from retriever_server.java import jvm, loop


def repeat(text: str, times: int) -> str:
    step = loop.unbound(loop.STRING, "repeat", loop.STRING, loop.INT)
    return loop.for_each_line(step)(text, times)


@pytest.mark.parametrize(
    "text", ["ab", "ab\ncd", "", "\n", "ab\n", "\n\nab\n\n", "ä\t𝛑\r\n\N{LINE SEPARATOR}x"]
)
def test_every_line_in_order(java: None, text: str) -> None:
    assert repeat(text, 2) == "".join(line * 2 + "\n" for line in text.split("\n"))


def test_an_exception_in_java_is_one_in_python(java: None) -> None:
    with pytest.raises(jvm.java_exception(), match="count is negative"):
        repeat("ab", -1)


def test_threads_do_not_mix_their_texts_or_numbers(java: None) -> None:
    step = loop.unbound(loop.STRING, "repeat", loop.STRING, loop.INT)
    run = loop.for_each_line(step)
    cases = [(f"{number}", number % 7) for number in range(2000)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: run(*case), cases))
    assert found == [text * times + "\n" for text, times in cases]

"""Strings of others stay what they are, wherever they are shown."""

import ast
import subprocess

import pytest

from search_spaces.quoting import markdown_code, markdown_text, printable, python_literal, shell_command

WORDS = ["plain", "it's", 'a"b', "a b", "a&b", "$HOME", "new\nline", "\x1b[31m", "back\\slash", "é", "'\n'", ""]


def test_what_cannot_be_seen_is_shown() -> None:
    assert printable("a\n\x1b[31m\u202eé [b]\\") == r"a\n\x1b[31m\u202eé [b]" + "\\"
    assert printable(12) == "12"


@pytest.mark.parametrize("word", WORDS)
def test_a_shell_reads_the_same_words(word: str) -> None:
    command = shell_command(["printf", "%s|", word, "x"])
    assert command.isprintable()
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout == f"{word}|x|"
    assert shell_command(["a", "b c"]) == "a 'b c'"


@pytest.mark.parametrize("word", WORDS)
def test_python_reads_the_same_text(word: str) -> None:
    assert ast.literal_eval(python_literal(word)) == word
    assert python_literal("it's") == '"it\'s"'


def test_markdown_reads_plain_text_and_code() -> None:
    assert markdown_text("*a* [b](c) <i> `d`") == r"\*a\* \[b\](c) \<i\> \`d\`"
    shown = {"a": "`a`", "a`b``c": "```a`b``c```", "`a": "`` `a ``", "ab`": "`` ab` ``", "": "`  `", " a": "`  a `"}
    assert {text: markdown_code(text) for text in shown} == shown

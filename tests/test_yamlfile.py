"""YAML files: YAML 1.2's values, positions, and what is refused with line, column and fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.errors import AgentFileError, FileError
from offhook.gateway.yamlfile import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml, write_yaml
from tests.rig.computing import computing_within


def refused(text: str) -> FileError:
    with pytest.raises(FileError) as caught:
        parse_yaml(text, path="a.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "", "# nothing")),
        *((word, word) for word in ("yes", "no", "on", "off", "Yes", "NO", "y", "n", "tRue", "nULL", "None")),
        ("12", 12),
        ("-12", -12),
        ("+15551234567", 15551234567),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        *((word, word) for word in ("1_000", "0b11", "-0x1F", "1,000", "12:30", "12:30:45", "190:20:30.15")),
        *((word, word) for word in ("2026-01-01", "2026-01-01 12:30:00", "2026-01-01T12:30:00Z", "=", "1.2.3")),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ("! 12", "12"),
        ("+49 30 1234", "+49 30 1234"),
        ("${BASE}/x", "${BASE}/x"),
        ('"{{name}} is here"', "{{name}} is here"),
        ("It is {{now}}.", "It is {{now}}."),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_scalar_follows_yaml_1_2(written: str, value: Any) -> None:
    found = parse_yaml(f"a: {written}").value["a"]
    assert (found, type(found)) == (value, type(value))


def test_keys_are_strings_as_written() -> None:
    value = parse_yaml("on: 1\ntrue: 2\n+155: 3\n012: 4\n~: 5\n2026-01-01: 6").value
    assert list(value) == ["on", "true", "+155", "012", "~", "2026-01-01"]


@pytest.mark.parametrize("start", ["", "\ufeff", "%YAML 1.2\n---\n", "---\n", "# comment\n\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_start_and_line_ends_do_not_matter(start: str, newline: str) -> None:
    text = f"{start}a:\n  - b: |\n      one\n      two\n".replace("\n", newline)
    assert parse_yaml(text).value == {"a": [{"b": "one\ntwo\n"}]}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_empty_file_is_null(text: str) -> None:
    assert parse_yaml(text).value is None


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_unicode_separator_ends_no_line(character: str) -> None:
    pasted = f"one{character}two"
    file = parse_yaml(f"a: |\n  {pasted}\nb: {pasted}\nc: '{pasted}'\n")
    assert file.value == {"a": f"{pasted}\n", "b": pasted, "c": pasted}
    assert file.position(["c"]) == (4, 1)


def test_tabs_separate() -> None:
    assert parse_yaml('{\n\t"a":\t1,\n\t"b": [\t2\t]\n}').value == {"a": 1, "b": [2]}
    assert parse_yaml("a:\tb\t# c\n\t\nd: e").value == {"a": "b", "d": "e"}


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: {{x}} is b", 1, 4, "put quotes around a text that begins with {{"),
        ("a: 1\nb: {{x}}", 2, 4, "put quotes around a text that begins with {{"),
        ("- {{x}}", 1, 3, "put quotes around a text that begins with {{"),
        ("a: [b, {{x}}]", 1, 8, "put quotes around a text that begins with {{"),
        ("a: {b: {{x}}/y}", 1, 8, "put quotes around a text that begins with {{"),
        ("a: {{x}} @home", 1, 4, "put quotes around a text that begins with {{"),
        ("a:\n  b: {{x}}: c", 2, 6, "put quotes around a text that begins with {{"),
        ("a: {x}/y", 1, 4, "put quotes around the whole text that begins with {"),
        ("a: [sales] please", 1, 4, "put quotes around the whole text that begins with ["),
        ('a: "yes" she said', 1, 4, 'put quotes around the whole text that begins with "'),
        ("a: @home", 1, 4, "put quotes around a text that begins with @"),
        ("a: `x`", 1, 4, "put quotes around a text that begins with `"),
        ("a: %x", 1, 4, "put quotes around a text that begins with %"),
        ("a: *70", 1, 4, "put quotes around a text that begins with *"),
        ("a: * item", 1, 4, "put quotes around a text that begins with *"),
        ("a: !Hello", 1, 4, "put quotes around a text that begins with !"),
        ("a: b: c", 1, 5, "put quotes around a text that holds a colon"),
        ('a: "\\d"', 1, 6, "use single quotes"),
        ("a: 'b\nc: d", 1, 4, "the quote that opens here is never closed"),
        ("a: 1\nb\nc: 2", 2, 1, "write key: value"),
        ("a:\n\tb: c", 2, 1, "use spaces"),
        ("a:\n  - b\n c: d", 3, 2, "indentation"),
        ("a: .inf", 1, 4, "is not a finite number"),
        ("a: .nan", 1, 4, "is not a finite number"),
        ("a: 1e999", 1, 4, "is not a finite number"),
        (f"a: {'9' * 5000}", 1, 4, "is not a finite number"),
        ("a: !!python/object/apply:os.getcwd []", 1, 4, "has no meaning here"),
        ("a: !!int x", 1, 4, "does not fit its tag"),
        ("? [a]\n: b", 1, 3, "a key must be a text"),
        ("a: \x07", 1, 4, "#x0007"),
        ('a: "\\ud83d"', 1, 4, "surrogate"),
        ("a: 1\n---\na: 2", 2, 1, "a second document"),
        ("a: &b [*b]", 1, 8, "stands inside of what it repeats"),
        ("<<: 3", 1, 5, "merges mappings"),
    ],
)
def test_mistake_is_named_with_line_and_fix(text: str, line: int, column: int, says: str) -> None:
    error = refused(text)
    assert says in error.what
    assert (error.line, error.column) == (line, column)
    assert str(error) == f"a.yaml:{line}: {error.what}"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3", 3, "a is there twice (lines 1 and 3)"),
        ("a:\n  b: 1\n  'b': 2", 3, "a.b is there twice (lines 2 and 3)"),
        ("- a: 1\n  a: 2", 2, "a is there twice (lines 1 and 2)"),
        ("{a: 1, a: 2}", 1, "a is there twice (line 1, columns 2 and 8)"),
        ("a: 1\n? a\n: 2", 2, "a is there twice (lines 1 and 2)"),
        ("1: a\n'1': b", 2, "1 is there twice (lines 1 and 2)"),
        ("a:\nb:\na: [c: 1]", 3, "a is there twice (lines 1 and 3)"),
        ("a: 1\na: 2\nb: 1\nb: 2", 2, "a is there twice (lines 1 and 2), b is there twice (lines 3 and 4)"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x", 4, "<< is there twice"),
    ],
)
def test_key_given_twice_is_refused_with_both_lines(text: str, line: int, says: str) -> None:
    error = refused(text)
    assert says in str(error)
    assert error.line == line


def test_anchor_and_merge_key_repeat_a_value() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nx:\n  <<: [*base, *more]\n  a: 5\ny: *base"
    value = parse_yaml(text).value
    assert value["x"] == {"a": 5, "b": 2, "c": 4}, "the mapping itself comes first, then the first merged"
    assert value["y"] == {"a": 1, "b": 2}


def test_quoted_merge_key_is_a_key() -> None:
    assert parse_yaml("'<<': 1").value == {"<<": 1}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_an_error(opening: str) -> None:
    assert "nested more than" in refused(opening * 20_000).what
    with computing_within(0.1, "the brackets on a line: not their square"):
        refused("a: " + "[" * 1_000 + "\n" + "b: " + "[" * 1_000)
    bearable = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(bearable).value


@pytest.mark.parametrize("escape", [r"\U00110000", r"\UFFFFFFFF"])
def test_an_escape_of_no_character_is_an_error(escape: str) -> None:
    error = refused(f'a: 1\nb: "x{escape}"')
    assert "names no character" in error.what
    assert error.line == 2


def test_nesting_by_aliases_is_bounded() -> None:
    step = "x{}: &x{} " + "[" * 30 + "*x{}" + "]" * 30 + "\n"
    text = "x0: &x0 []\n" + "".join(step.format(i + 1, i + 1, i) for i in range(2000))
    assert "nested more than" in refused(text).what


@pytest.mark.parametrize("item", ["lol", "x" * 900])
def test_repeated_aliases_are_bounded(item: str) -> None:
    text = f"x0: &x0 [{','.join([item] * 10)}]\n"
    text += "".join(f"x{i + 1}: &x{i + 1} [{','.join([f'*x{i}'] * 10)}]\n" for i in range(9))
    assert "repeat too much" in refused(text).what


def test_huge_file_is_refused() -> None:
    assert "characters" in refused("a" * (MAX_BYTES + 1)).what


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"a: caf\xe9\n", 1, "byte 0xe9): save it as UTF-8"),
        (b"a: b\nc: \xff", 2, "byte 0xff): save it as UTF-8"),
        ("a: b".encode("utf-16"), None, "in UTF-16: save it as UTF-8"),
    ],
)
def test_other_encoding_is_refused(tmp_path: Path, data: bytes, line: int | None, says: str) -> None:
    (tmp_path / "a.yaml").write_bytes(data)
    with pytest.raises(AgentFileError) as caught:
        read_yaml(tmp_path / "a.yaml", AgentFileError)
    assert says in caught.value.what
    assert caught.value.line == line


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")


def test_position_is_that_of_the_key_or_item() -> None:
    file = parse_yaml("a:\n  - b: 1\n    c d: {e.f: 2}\n")
    assert file.position(["a"]) == (1, 1)
    assert file.position(["a", 0]) == (2, 5)
    assert file.position(["a", 0, "c d", "e.f"]) == (3, 11)
    assert file.position(["a", 0, "none", "x"]) == (2, 5), "the last step that exists"
    assert file.steps("a[0].c d.e.f") == ["a", 0, "c d", "e.f"]
    assert file.steps("a[0].none.x") == ["a", 0, "none", "x"]


def test_merged_value_has_the_position_of_its_origin() -> None:
    file = parse_yaml("base: &b\n  x: 1\na:\n  <<: *b\n")
    assert file.position(["a", "x"]) == (2, 3)


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["hold", "stop"] = "hold"
    wait_s: float = 0
    on: bool = False


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    count: int = 0
    items: list[str] = []
    named: dict[str, str] = {}
    inner: Inner = Inner()
    many: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("text: 0123", '1: text: expected `str`, got `int`: put quotes around it: "0123"'),
        ("text: +15551234567", '1: text: expected `str`, got `int`: put quotes around it: "+15551234567"'),
        ("text: ~", '1: text: expected `str`, got `null`: put quotes around it: "~"'),
        ("text:", "1: text: expected `str`, got `null`: give a value, or remove the key"),
        ("text: {x}", "1: text: expected `str`, got `object`: put quotes around a text that begins with {"),
        ("text:\n  x: 1", "1: text: expected `str`, got `object`"),
        ("count: 1_000", "1: count: expected `int`, got `str`: write 1000"),
        ("count: 1.5", "1: count: expected `int`, got `float`: write a whole number"),
        ("items: a", "1: items: expected `array`, got `str`: write a list: [a]"),
        ("items: +155", '1: items: expected `array`, got `int`: write a list: ["+155"]'),
        ("items:\n- a\n- 7", '3: items[1]: expected `str`, got `int`: put quotes around it: "7"'),
        ("named:\n  a: b\n  c: 7", '3: named.c: expected `str`, got `int`: put quotes around it: "7"'),
        ("inner: {on: yes}", "1: inner.on: expected `bool`, got `str`: write true"),
        ("inner: {on: 1}", "1: inner.on: expected `bool`, got `int`: write true or false"),
        ("inner: {wait_s: 12:30}", "1: inner.wait_s: expected `float`, got `str`: write a number"),
        ("inner: 3", "1: inner: expected `object`, got `int`: write a mapping of fields"),
        (
            "inner:\n  mode: hodl",
            "2: inner.mode: invalid enum value 'hodl': did you mean hold? use one of hold, stop",
        ),
        (
            "many:\n  a: {mode: hold}\n  b: {mode: x}",
            "3: many.b.mode: invalid enum value 'x': use one of hold, stop",
        ),
        ("many: {a: {md: 1}}", "1: many.a.md: is not a field of this file; did you mean mode?"),
        ("txt: a", "1: txt: is not a field of this file; did you mean text?"),
    ],
)
def test_wrong_type_is_named_with_field_and_fix(text: str, says: str) -> None:
    file = parse_yaml(text, path="a.yaml")
    with pytest.raises(FileError) as caught:
        file.convert(file.value, Outer)
    assert str(caught.value) == f"a.yaml:{says}"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.sampled_from(["off", "yes", "12:30", "0123", "0o17", "1e3", "1_000", "~", "<<", "{{x}}", "=", "2026-01-01"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    assert parse_yaml(write_yaml(value)).value == value


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-{}[]\"'&*!|>#%@`?,~<.0123456789 \t\n\r", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    refused_at = 1
    try:
        parse_yaml(text)
    except FileError as error:
        refused_at = error.line or 0
    assert 1 <= refused_at <= len(re.split(r"\r\n|\r|\n", text))

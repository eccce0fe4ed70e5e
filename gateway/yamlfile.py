"""YAML files that people write: agent files, scenarios, model scripts, price tables.

One pass over the text gives plain values and the position of every key and value. Scalars follow the core schema of
YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `off`, `no`, `12:30`, `2026-01-01` and `1_000` are strings,
`0123` is 123. Stricter than YAML: keys are strings as written and unique in their mapping (YAML 1.2.2, 3.2.1.3),
numbers are finite, tags outside the core schema are refused, depth and size are bounded. Merge keys (`<<`, YAML 1.1)
work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from offhook.gateway.errors import FileError, nearest

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_EXPANDED",
    "Position",
    "YamlFile",
    "mistake",
    "parse_yaml",
    "read_yaml",
    "write_yaml",
]

MAX_BYTES = 1_000_000  # of a file; what is larger is a file of another kind
MAX_DEPTH = 100  # mappings and lists inside each other
MAX_EXPANDED = 3_000_000  # characters and values once every alias is replaced: ten nested aliases can name billions

Step = str | int
Position = tuple[int, int]  # line and column, from 1
T = TypeVar("T")

# YAML 1.2.2, section 10.3.2.
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)

# A line's beginning up to an unquoted value's first character: dashes, perhaps a key, perhaps a bracket.
_BEFORE_VALUE = r"""^\s*(?:-\s+)*(?:[^\s"'#{\[][^"'{\[]*?:\s+)?(?:\[\s*)?"""
_BRACES = re.compile(_BEFORE_VALUE + r"(?=\{\{)")
_VALUE = re.compile(_BEFORE_VALUE + r"""(?=([{\["']))""")
_QUOTE_BRACES = 'put quotes around a text that begins with {{, as in "{{name}} ..."'
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep: write it flatter"
_CORE_TAG = "tag:yaml.org,2002:"
# Line breaks of YAML 1.1 but not of 1.2 (5.4): pasted text has them. Private code points stand in while PyYAML scans.
_NOT_BREAKS = str.maketrans("\x85\u2028\u2029", "\U0010fff0\U0010fff1\U0010fff2")
_NOT_BREAKS_BACK = {stand_in: original for original, stand_in in _NOT_BREAKS.items()}


def read_yaml(path: str | Path, error: type[FileError] = FileError) -> YamlFile:
    """Read a file. Raises `error` with the line of what is wrong; an empty file has the value None."""
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise error(str(path), f"cannot be read ({problem.strerror})") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(str(path), "is not text in UTF-8 but in UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        before = data[: problem.start]
        line, column = before.count(b"\n") + 1, problem.start - before.rfind(b"\n")
        what = f"is not text in UTF-8 (byte 0x{data[problem.start]:02x}): save it as UTF-8"
        raise error(str(path), what, line=line, column=column) from None
    return parse_yaml(text, path=str(path), error=error)


def parse_yaml(text: str, *, path: str = "file.yaml", error: type[FileError] = FileError) -> YamlFile:
    """Parse the text of a file; `path` is only named. Raises `error` with the line of what is wrong."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        raise error(path, f"has more than {MAX_BYTES:,} characters: is it the right file?")
    try:
        return YamlFile(path, _Builder().build(text), error)
    except _Wrong as wrong:
        what, (line, column) = wrong.what, wrong.at
    except yaml.reader.ReaderError as problem:
        before = text[: problem.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"the character #x{problem.character:04x} is not allowed in YAML: remove it"
    except yaml.MarkedYAMLError as problem:
        what, (line, column) = _explained(problem, text)
    raise error(path, what, line=line, column=column)


def write_yaml(value: Any, *, width: int | None = None) -> str:
    """The text of plain values that `parse_yaml`, and a reader of YAML 1.1, read back as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


@dataclass(slots=True)
class _Node:
    """A value and where it stands. `text`: of an unquoted scalar, as written."""

    value: Any
    at: Position
    text: str | None = None
    is_flow: bool = False  # written with braces or brackets
    size: int = 1
    depth: int = 0
    keys: dict[str, Position] = field(default_factory=dict)
    children: dict[Step, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file's plain value, the position of each of its parts, and errors that name it."""

    path: str
    _root: _Node | None
    _error: type[FileError] = FileError

    @property
    def value(self) -> Any:
        """The whole file as plain values: dict (keys are str), list, str, int, float, bool, None."""
        return self._root.value if self._root else None

    def position(self, steps: Sequence[Step]) -> Position | None:
        """Where the value stands that `steps` (keys, indices) lead to, or the last of them that exists.

        Of a mapping's value this is the position of its key.
        """
        node = self._root
        at = node.at if node else None
        for step in steps:
            child = node.children.get(step) if node else None
            if node is None or child is None:
                break
            at = node.keys[step] if isinstance(step, str) else child.at
            node = child
        return at

    def text(self, steps: Sequence[Step]) -> str | None:
        """An unquoted scalar as it is written: `0123` and not 123. None for anything else."""
        node = self._node(steps)
        return node.text if node else None

    def _node(self, steps: Sequence[Step]) -> _Node | None:
        node = self._root
        for step in steps:
            node = node.children.get(step) if node else None
        return node

    def steps(self, name: str) -> list[Step]:
        """The keys and indices of a field's name such as `tools[0].http.url`; keys may hold dots and spaces."""
        found: list[Step] = []
        node = self._root
        while name:
            index = re.match(r"\[(\d+)\]\.?", name)
            keys = [key for key in (node.children if node else ()) if isinstance(key, str) and key]
            fits = [key for key in keys if name == key or name.startswith((f"{key}.", f"{key}["))]
            if index is not None:
                step: Step = int(index[1])
                name = name[index.end() :]
            else:
                step = max(fits, key=len) if fits else re.split(r"[.\[]", name, maxsplit=1)[0]
                name = name[len(step) :].removeprefix(".")
            found.append(step)
            node = node.children.get(step) if node else None
        return found

    def error(self, what: str, steps: Sequence[Step] = ()) -> FileError:
        """An error to be raised: `what` is wrong with the field at `steps`, and what to do."""
        line, column = self.position(steps) or (1, 1)
        name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
        return self._error(self.path, what, line=line, column=column, field=name)

    def convert(
        self,
        value: Any,
        kind: type[T],
        steps: Sequence[Step] = (),
        *,
        part_of: str = "this file",
        written_as: Mapping[Step, Sequence[Step]] = {},
    ) -> T:
        """`value`, which stands at `steps`, as a `kind` by msgspec. Raises the file's error naming line and field.

        `written_as`: where a field of `kind` is in the file, from `steps` on, if not under its own name.
        """
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as problem:
            what, more = mistake(problem, value, kind, part_of=part_of)
        steps = [*steps, *written_as.get(more[0], more[:1]), *more[1:]] if more else steps
        raise self.error(self.with_fix(what, steps), steps)

    def with_fix(self, what: str, steps: Sequence[Step]) -> str:
        """`what` is wrong with the value at `steps`, with what to do where the way it is written shows that."""
        hint = self._hint(what, steps)
        return f"{what}: {hint}" if hint else what

    def _hint(self, what: str, steps: Sequence[Step]) -> str:
        """What to do about a value of the wrong type, by how it is written."""
        found = re.match(r"expected `([^`]*)`.*, got `(\w+)`", what)
        node = self._node(steps)
        if found is None or node is None:
            return ""
        wanted, got, text = found[1].split(" | "), found[2], node.text
        if text == "":
            return "give a value, or remove the key"
        if "str" in wanted and text is not None:
            return f'put quotes around it: "{text}"'
        if "str" in wanted and node.is_flow:
            return f"put quotes around a text that begins with {'{' if got == 'object' else '['}"
        if "array" in wanted:
            item = text if got == "str" else f'"{text}"'
            return "write a list" if text is None else f"write a list: [{item}]"
        if "object" in wanted:
            return "write a mapping of fields"
        if "bool" in wanted:
            yes, no = ("yes", "on", "y"), ("no", "off", "n")
            word = (text or "").lower()
            return f"write {'true' if word in yes else 'false' if word in no else 'true or false'}"
        if {"int", "float"} & {*wanted}:
            digits = (text or "").replace("_", "")
            number = "a number" if "float" in wanted else "a whole number"
            return f"write {digits if digits.isdigit() and digits != text else number}"
        return ""


class _Wrong(Exception):
    """Something in the text cannot be used."""

    def __init__(self, what: str, at: Position) -> None:
        super().__init__(what)
        self.what, self.at = what, at


class _Events(Reader, Scanner, Parser):
    """PyYAML's parser with YAML 1.2's rule for tabs (they separate, they do not indent) and a bound on open brackets,
    since the scanner runs ahead of the events and its time is the square of their number.
    """

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text.translate(_NOT_BREAKS))
        Scanner.__init__(self)
        Parser.__init__(self)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise _Wrong(_TOO_DEEP, (self.line + 1, self.column + 1))
        super().fetch_flow_collection_start(TokenClass)

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: Any) -> Any:
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError):
            raise _Wrong(
                r"an escape names no character: the last is \U0010ffff", (self.line + 1, self.column + 1)
            ) from None

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.peek() == "\t":
            blank = 0
            while self.peek(blank) in " \t":
                blank += 1
            before = self.buffer[self.pointer - self.column : self.pointer]
            if not (self.flow_level or before.strip(" -?") or self.peek(blank) in "\0\r\n#"):
                raise _Wrong("a tab cannot indent: use spaces", (self.line + 1, self.column + 1))
            self.forward(blank)
            super().scan_to_next_token()


class _Open:
    """A mapping or list whose end has not come."""

    def __init__(self, node: _Node, anchor: str | None) -> None:
        self.node, self.anchor = node, anchor
        self.key: str | None = None
        self.key_at: Position = (0, 0)
        self.merges = False  # the value to come belongs to a merge key
        self.merged: list[_Node] = []


class _Builder:
    """Nodes out of the parser's events, without recursion."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node | None] = {}  # None: open still
        self._root: _Node | None = None
        self._expanded = 0
        self._twice: list[tuple[str, Position, Position]] = []

    def build(self, text: str) -> _Node | None:
        documents = 0
        for event in _events(text):
            mark: Any = event.start_mark  # every event of a parser has one
            at = (mark.line + 1, mark.column + 1)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Wrong("a second document begins here: put it into a file of its own", at)
            elif isinstance(event, yaml.AliasEvent):
                self._add(self._aliased(str(event.anchor), at), at, plain=False)
            elif isinstance(event, yaml.ScalarEvent):
                node = _scalar(event, at)
                self._name(event.anchor, node)
                self._grow(node.size, at)
                plain = event.style is None and event.tag is None
                self._add(node, at, plain=plain, text=_text(event.value, at))
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, at)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(at)
        if self._twice:
            said = [f"{name} is there twice ({_lines(first, again)})" for name, first, again in self._twice]
            raise _Wrong(f"{', '.join(said)}: keep one{' of each' if len(said) > 1 else ''}", self._twice[0][2])
        return self._root

    def _begin(self, event: yaml.CollectionStartEvent, at: Position) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_CORE_TAG}{'map' if is_mapping else 'seq'}"):
            raise _Wrong(f"the tag {_tag_name(event.tag)} has no meaning here: remove it", at)
        above = self._open[-1] if self._open else None
        if above is not None and isinstance(above.node.value, dict) and above.key is None and not above.merges:
            if above.node.is_flow and is_mapping and at == (above.node.at[0], above.node.at[1] + 1):
                raise _Wrong(_QUOTE_BRACES, above.node.at)
            raise _Wrong("a key must be a text: put quotes around a text that begins with { or [", at)
        if len(self._open) >= MAX_DEPTH:
            raise _Wrong(_TOO_DEEP, at)
        node = _Node({} if is_mapping else [], at, is_flow=bool(event.flow_style))
        self._grow(1, at)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(node, event.anchor))

    def _end(self, at: Position) -> None:
        done = self._open.pop()
        for merged in done.merged:  # what is written here, and what was merged first, has precedence
            for key, child in merged.children.items():
                if key not in done.node.children and isinstance(key, str):
                    done.node.value[key] = child.value
                    done.node.keys[key], done.node.children[key] = merged.keys[key], child
        children = done.node.children.values()
        done.node.size = 1 + sum(child.size for child in children)
        done.node.depth = 1 + max((child.depth for child in children), default=0)
        self._name(done.anchor, done.node)
        self._add(done.node, done.node.at, plain=False)

    def _add(self, node: _Node, at: Position, *, plain: bool, text: str | None = None) -> None:
        """Put a node where it belongs. `text`: a scalar's, which may be a key."""
        if not self._open:
            self._root = node
            return
        into = self._open[-1]
        if isinstance(into.node.value, list):
            into.node.children[len(into.node.value)] = node
            into.node.value.append(node.value)
        elif into.merges:
            into.merges = False
            into.merged += _mappings(node, at)
        elif into.key is None:
            self._key(into, node, at, plain, text)
        else:
            key, into.key = into.key, None
            if key not in into.node.children:
                into.node.value[key] = node.value
                into.node.keys[key], into.node.children[key] = into.key_at, node

    def _key(self, into: _Open, node: _Node, at: Position, plain: bool, text: str | None) -> None:
        if plain and text == "<<":
            if into.merged:
                raise _Wrong("<< is there twice: give the mappings to merge as one list, as in <<: [*a, *b]", at)
            into.merges = True
            return
        if text is None:  # an alias
            text = node.text if node.text is not None else node.value
        if not isinstance(text, str):
            raise _Wrong("a key must be a text", at)
        if text in into.node.keys:
            name = ".".join([*(one.key for one in self._open[:-1] if one.key is not None), text])
            self._twice.append((name, into.node.keys[text], at))
        into.key, into.key_at = text, at

    def _aliased(self, name: str, at: Position) -> _Node:
        if name not in self._anchors:
            raise _Wrong(f"there is no &{name} for *{name}: put quotes around a text that begins with *", at)
        node = self._anchors[name]
        if node is None:
            raise _Wrong(f"*{name} stands inside of what it repeats: write it out", at)
        if len(self._open) + node.depth > MAX_DEPTH:
            raise _Wrong(_TOO_DEEP, at)
        self._grow(node.size, at)
        return node

    def _name(self, anchor: str | None, node: _Node) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _grow(self, by: int, at: Position) -> None:
        self._expanded += by
        if self._expanded > MAX_EXPANDED:
            raise _Wrong("the aliases repeat too much: write out what is needed", at)


def _events(text: str) -> Iterator[yaml.Event]:
    parser = _Events(text)
    while parser.check_event():
        yield parser.get_event()  # type: ignore[no-untyped-call]


def _scalar(event: yaml.ScalarEvent, at: Position) -> _Node:
    text = _text(event.value, at)
    plain = event.style is None
    if event.tag is None:
        value = _plain(text, at) if plain else text
    elif event.tag in ("!", f"{_CORE_TAG}str"):
        value = text
    elif event.tag in (f"{_CORE_TAG}{name}" for name in ("null", "bool", "int", "float")):
        value = _plain(text, at)
        if event.tag.endswith("float") and type(value) is int:
            value = float(value)
        wanted = {"null": type(None), "bool": bool, "int": int, "float": float}[event.tag.removeprefix(_CORE_TAG)]
        if type(value) is not wanted:
            raise _Wrong(f"{text!r} does not fit its tag {_tag_name(event.tag)}: remove the tag", at)
    else:
        raise _Wrong(
            f"the tag {_tag_name(event.tag)} has no meaning here: put quotes around a text that begins with !", at
        )
    return _Node(value, at, text if plain else None, size=1 + len(text))


def _plain(text: str, at: Position) -> Any:
    """The value of an unquoted scalar."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if not (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
        return text
    try:
        if _INT.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # int() bounds its digits
        number = math.inf
    if not math.isfinite(number):
        raise _Wrong(f"{text[:20]} is not a finite number: put quotes around it if it is a text", at)
    return number


def _text(scanned: str, at: Position) -> str:
    r"""A scalar's text. JSON's "\ud83d\ude00" is one character; PyYAML gives the two halves of its pair."""
    text = scanned.translate(_NOT_BREAKS_BACK)
    if not re.search("[\ud800-\udfff]", text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _Wrong(r"holds half of a surrogate pair, as in \ud83d alone: remove it", at) from None


def _mappings(node: _Node, at: Position) -> list[_Node]:
    """What a merge key merges: a mapping, or a list of mappings."""
    found = [*node.children.values()] if isinstance(node.value, list) else [node]
    if not all(isinstance(one.value, dict) for one in found):
        raise _Wrong('<< merges mappings, as in <<: *defaults: put quotes around a key "<<"', at)
    return found


def _lines(first: Position, again: Position) -> str:
    if first[0] == again[0]:
        return f"line {first[0]}, columns {first[1]} and {again[1]}"
    return f"lines {first[0]} and {again[0]}"


def _tag_name(tag: str) -> str:
    return f"!!{tag.removeprefix(_CORE_TAG)}" if tag.startswith(_CORE_TAG) else tag


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Position]:
    """A parser's error in words that say what to do, and where."""
    problem, context = str(error.problem or "is not YAML"), str(error.context or "")
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None]
    lines = re.split(r"\r\n|\r|\n", text)
    for mark in marks:
        line = lines[mark.line] if mark.line < len(lines) else ""
        if braces := _BRACES.match(line):
            return _QUOTE_BRACES, (mark.line + 1, braces.end() + 1)
    at = (marks[0].line + 1, marks[0].column + 1) if marks else (1, 1)
    from_context = (marks[-1].line + 1, marks[-1].column + 1) if marks else (1, 1)
    if found := re.match(r"found character '(.*)' that cannot start any token", problem):
        return f"put quotes around a text that begins with {found[1]}", at
    if "quoted scalar" in context and "end of stream" in problem:
        return "the quote that opens here is never closed", from_context
    if "found unknown escape character" in problem:
        return f"{problem}: use single quotes, or write \\\\ for a backslash", at
    if "mapping values are not allowed here" in problem:
        return (
            "a colon is not expected here: put quotes around a text that holds a colon, or correct the indentation",
            at,
        )
    if "could not find expected ':'" in problem:
        return "a key without its colon: write key: value, or put quotes around a text of several lines", from_context
    if "scanning an alias" in context or "scanning an anchor" in context:
        sign = "*" if "alias" in context else "&"
        return f"put quotes around a text that begins with {sign}", from_context
    line = lines[at[0] - 1] if at[0] <= len(lines) else ""
    if "but found '<scalar>'" in problem and (begins := _VALUE.match(line)):
        return f"put quotes around the whole text that begins with {begins[1]}", (at[0], begins.end() + 1)
    if "expected <block end>" in problem:
        return f"{problem}: correct the indentation of this line", at
    return problem, at


def mistake(
    error: msgspec.ValidationError, value: Any, kind: Any, *, part_of: str = "this file"
) -> tuple[str, list[Step]]:
    """What msgspec refused of `value`, in words and with the choices, and the keys and indices that lead there."""
    what, steps = _located(error, value, kind)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        hint = nearest(unknown[1], _fields(kind, steps)).strip()
        return f"is not a field of {part_of}{f'; {hint}' if hint else ''}", [*steps, unknown[1]]
    what = f"{what[:1].lower()}{what[1:]}"
    choices = _choices(what, kind, steps)
    return f"{what}: {choices}" if choices else what, steps


def _located(error: msgspec.ValidationError, value: Any, kind: Any) -> tuple[str, list[Step]]:
    """msgspec's message without its path, and the path as steps. It writes `[...]` for any key of a mapping."""
    what, _, place = str(error).partition(" - at `")
    path = place.rpartition("`$")[2] if place.startswith("key`") else place.removeprefix("$")
    steps: list[Step] = []
    for key, index, some_key in re.findall(r"\.([^.\[`]+)|\[(\d+)\]|(\[\.\.\.\])", path):
        steps.append(key or (int(index) if index else _key_of(some_key, str(error), value, kind, steps)))
    if place.startswith("key`") and (given := re.search(r"'(.*)'", what)):
        steps.append(given[1])
    return what, steps


def _key_of(_: str, message: str, value: Any, kind: Any, steps: list[Step]) -> str:
    """The key of the mapping at `steps` whose value alone gives the same message."""
    mapping = _at(value, steps)
    for key, inner in mapping.items() if isinstance(mapping, dict) else ():
        try:
            msgspec.convert(_with(value, steps, {key: inner}), kind)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return str(key)
    return "..."


def _at(value: Any, steps: Sequence[Step]) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _with(value: Any, steps: Sequence[Step], inner: Any) -> Any:
    """A copy of `value` that has `inner` at `steps`."""
    if not steps:
        return inner
    copied = value.copy()
    copied[steps[0]] = _with(value[steps[0]], steps[1:], inner)
    return copied


def _types(kind: Any, steps: Sequence[Step]) -> list[Any]:
    """What may stand at `steps` of a `kind`, as msgspec describes it."""
    found = [msgspec.inspect.type_info(kind)]
    for step in [*steps, None]:
        inner = []
        while found:
            one = found.pop()
            if isinstance(one, msgspec.inspect.UnionType):
                found += one.types
            elif isinstance(one, msgspec.inspect.Metadata):
                found.append(one.type)
            elif step is None:
                inner.append(one)
            elif isinstance(one, msgspec.inspect.StructType | msgspec.inspect.DataclassType):
                inner += [of.type for of in one.fields if of.encode_name == step]
            elif isinstance(one, msgspec.inspect.DictType):
                inner.append(one.value_type)
            elif isinstance(one, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
                inner.append(one.item_type)
        found = inner
    return found


def _fields(kind: Any, steps: Sequence[Step]) -> list[str]:
    structs = (msgspec.inspect.StructType, msgspec.inspect.DataclassType)
    return [of.encode_name for one in _types(kind, steps) if isinstance(one, structs) for of in one.fields]


def _choices(what: str, kind: Any, steps: Sequence[Step]) -> str:
    """The values that may be given instead of one that is none of them."""
    given = re.match(r"invalid enum value '(.*)'", what)
    choices = [c for one in _types(kind, steps) if isinstance(one, msgspec.inspect.LiteralType) for c in one.values]
    if given is None or not choices:
        return ""
    return f"{nearest(given[1], map(str, choices))}use one of {', '.join(map(str, choices))}"


class _Dumper(yaml.SafeDumper):
    """Puts quotes around what either version of YAML would read as something other than this string."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & {"\x85", "\u2028", "\u2029"} else None
        return self.represent_scalar(f"{_CORE_TAG}str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _pattern, _tag in ((_INT, "int"), (_FLOAT, "float")):
    _Dumper.add_implicit_resolver(f"{_CORE_TAG}{_tag}", re.compile(f"(?:{_pattern.pattern})\\Z"), list("-+.0123456789"))

"""Class names and colours from a user's file: text, CSV or JSON.

One format a file; what is not one of these is refused with the line's number:

* text, one class a line: ``NAME``, ``NAME R G B`` or ``R G B NAME`` (CamVid's ``label_colors.txt``), each
  of them after an optional id: ``0: NAME`` or ``0 NAME``. A name may hold spaces. A name that begins with a
  number needs CSV or JSON, and so does a name that ends with a number where colours follow it.
* CSV, with a comma in the first line or a name ending in ``.csv``: columns by a header of ``name``, ``id``,
  ``r``, ``g``, ``b`` in any order (CamVid's ``class_dict.csv``), or without one ``name,r,g,b``,
  ``r,g,b,name``, ``id,name``, ``id,name,r,g,b``, ``id,r,g,b,name``.
* JSON: a list of names; a list of objects with ``name``, ``id`` and ``color`` (or ``colour`` or ``rgb``);
  an object of id -> name, or of name -> [R, G, B].

Text and CSV may hold blank lines and comments: lines that begin with ``#``, and in text whatever follows a
``#`` between spaces. Where ids are given they must be 0 to n-1; classes are sorted by them.

Signs of another format in a name are refused: other separators, list marks, hexadecimal colours, quotes
around it. In JSON, and in CSV between double quotes, a name may hold anything that can be printed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.classes.builtin import BUILTIN_CLASSES, ClassSet, Color
from fcn_deploy.errors import UsageError
from fcn_deploy.files import input_file

Lines = list[tuple[int, str]]
"""Number, counted from 1, and content of each line that is neither blank nor a comment."""

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_TRIPLE = rf"{_NUMBER.pattern}(?:\s+{_NUMBER.pattern}){{2}}"
_NOT_A_NAME = re.compile(
    r"""
      ^[-*+•]\s | ^\(?\d+\) | ^\d+\s*:     # an item of a list, or one with a number
    | :$ | :\s*\d+$                         # YAML
    | [\[\]{}<>;,=|"\t] | →                # other separators, XML, arrows
    | (?:\#|0x)[0-9a-fA-F]{6}              # a colour
    | ^['`\u2018“«].*['`\u2019”»]$         # quotes around it
    """,
    re.VERBOSE,
)
"""Signs of another format in what stands for a name."""
_TITLES = {"name", "names", "class", "classes", "label", "labels"}
_HEADER_WORDS = _TITLES | {"id", "index", "color", "colour", "r", "g", "b", "red", "green", "blue"}


class _Malformed(ValueError):
    """What is wrong, with the place in front where there is one: ``line 3: ...``."""


@dataclass(frozen=True)
class _Entry:
    """One class as the file has it."""

    place: str
    """``line 3`` or ``entry 3``."""
    form: str
    """What the line looks like, such as ``NAME R G B``; the same in all of a file."""
    name: object
    id: object = None
    color: Sequence[object] | None = None


def named_classes(text: str | Path) -> ClassSet:
    """The classes that ``--classes`` names: an existing file, or a built-in set.

    Args:
        text: a path, or ``camvid`` or ``voc``. A file of that name wins over the built-in set.

    Raises:
        UsageError: it is neither, or the file is malformed.
    """
    if str(text) in BUILTIN_CLASSES and not Path(text).is_file():
        return BUILTIN_CLASSES[str(text)]
    if not Path(text).exists():
        raise UsageError(
            f"{text} does not exist; give a file with the class names, or one of the built-in sets "
            f"{', '.join(BUILTIN_CLASSES)}"
        )
    names, palette = read_classes(text)
    return ClassSet(names, palette)


def read_classes(path: str | Path) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Class names and colours from a text, CSV or JSON file in one of the formats of this module.

    Returns:
        Names in the order of the class ids, and one R, G, B colour (0 to 255) a name, or no colours
        at all.

    Raises:
        UsageError: it cannot be read, or is in none of the formats; the message names the line.
    """
    found = input_file(path, "class names")
    try:
        text = found.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{found} is not a UTF-8 text file; expected class names, one a line") from exc
    try:
        return _checked(list(_entries(text, found.suffix.lower())))
    except _Malformed as exc:
        raise UsageError(f"{found}, {exc}") from exc


def _entries(text: str, suffix: str) -> Iterator[_Entry]:
    if suffix == ".json" or text.lstrip().startswith(("[", "{")):
        return _read_json(text)
    lines = _content(text)
    if lines and (suffix == ".csv" or "," in lines[0][1]):
        return _read_csv(lines)
    return _read_text(lines)


def _content(text: str) -> Lines:
    """The lines that say something. Only ends of line that editors count split: not str.splitlines."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _check_first(place: str, line: str) -> None:
    """Raises _Malformed where the first line is a header that this format does not have."""
    words = set(line.lower().split())
    if words & _TITLES and words <= _HEADER_WORDS:
        raise _Malformed(
            f"{place}: expected a class name, found the header {line!r}; leave it out, or write CSV with the "
            "columns name and, optionally, id and r, g, b"
        )


# Text


_TEXT = re.compile(
    rf"""
    (?: (?P<id>\d+) (?: \s*(?P<colon>:)\s* | \s+ ) )?
    (?: (?P<before>{_TRIPLE}) \s+ )?
    (?P<name> (?!{_NUMBER.pattern}(?:\s|$)) \S+ (?:\s+\S+)*? )
    (?: \s+ (?P<behind>{_TRIPLE}) )?
    """,
    re.VERBOSE,
)
_ENDS_WITH_NUMBER = re.compile(rf"\s{_NUMBER.pattern}$")


def _read_text(lines: Lines) -> Iterator[_Entry]:
    if lines:
        _check_first(f"line {lines[0][0]}", lines[0][1])
    for number, line in lines:
        yield _text_entry(f"line {number}", re.split(r"\s#(?:\s|$)", line)[0].strip())


def _text_entry(place: str, line: str) -> _Entry:
    found = _TEXT.fullmatch(line)
    colors = [found[key].split() for key in ("before", "behind") if found and found[key]]
    # Four numbers behind a name may be R G B A, or the name's own number and R G B.
    unclear = len(colors) > 1 or (found and found["behind"] and _ENDS_WITH_NUMBER.search(found["name"]))
    if not found or unclear or _NOT_A_NAME.search(found["name"]):
        raise _Malformed(
            f"{place}: expected NAME, NAME R G B or R G B NAME, with or without an id before it, found "
            f"{line!r}; write other names as CSV or JSON"
        )
    form = (found["id"] and ("ID:" if found["colon"] else "ID"), found["before"] and "R G B", "NAME")
    words = [word for word in (*form, found["behind"] and "R G B") if word]
    return _Entry(place, " ".join(words), found["name"], found["id"], colors[0] if colors else None)


# CSV


_COLORS_IN_NAME = re.compile(rf"^{_TRIPLE}\s|\s{_TRIPLE}$")
_COLUMNS = ("id", "name", "r", "g", "b")
_FULL_NAMES = {"red": "r", "green": "g", "blue": "b"}
_CSV_ROWS = {
    (1, 0): ("name",),
    (2, 1): ("id", "name"),
    (4, 0): ("name", "r", "g", "b"),
    (4, 3): ("r", "g", "b", "name"),
    (5, 1): ("id", "name", "r", "g", "b"),
    (5, 4): ("id", "r", "g", "b", "name"),
}
"""Number of fields and place of the one that is no number -> what the fields are."""


def _read_csv(lines: Lines) -> Iterator[_Entry]:
    rows = [(f"line {number}", line, _fields(number, line)) for number, line in lines]
    place, _, first = rows[0]
    columns = _header(place, first)
    for place, line, fields in rows[1:] if columns else rows:
        names = columns or _csv_columns(place, fields)
        if len(fields) != len(names):
            raise _Malformed(
                f"{place}: expected {','.join(names)} as in the header, found {','.join(fields)!r}"
            )
        row = dict(zip(names, fields, strict=True))
        _check_csv_name(place, line, row["name"])
        color = [row[channel] for channel in "rgb"] if "r" in row else None
        yield _Entry(place, ",".join(names), row["name"], row.get("id"), color)


def _fields(number: int, line: str) -> list[str]:
    try:
        (fields,) = csv.reader([line], strict=True, skipinitialspace=True)
    except csv.Error as exc:
        raise _Malformed(f"line {number}: not CSV ({exc}): {line!r}") from exc
    return [field.strip() for field in fields]


def _check_csv_name(place: str, line: str, name: str) -> None:
    """Raises _Malformed where a name that does not stand between double quotes shows another format."""
    quoted = '"' + name.replace('"', '""') + '"'
    if quoted not in line and (_NOT_A_NAME.search(name) or _COLORS_IN_NAME.search(name)):
        raise _Malformed(
            f"{place}: expected fields with commas between them, found {line!r}; an odd name stands between "
            "double quotes"
        )


def _header(place: str, fields: list[str]) -> tuple[str, ...] | None:
    """The columns that a header names; None where the first row is a class already."""
    columns = tuple(_FULL_NAMES.get(field.lower(), field.lower()) for field in fields)
    if len(fields) == 1 and columns != ("name",):
        _check_first(place, fields[0])
        return None
    if any(_NUMBER.fullmatch(field) for field in fields):
        return None
    colors = set(columns) & set("rgb")
    if (
        "name" in columns
        and set(columns) <= set(_COLUMNS)
        and len(set(columns)) == len(columns)
        and colors in (set(), set("rgb"))
    ):
        return columns
    raise _Malformed(
        f"{place}: expected the columns name and, optionally, id and r, g, b, found {','.join(fields)!r}"
    )


def _csv_columns(place: str, fields: list[str]) -> tuple[str, ...]:
    words = [i for i, field in enumerate(fields) if not _NUMBER.fullmatch(field)]
    columns = _CSV_ROWS.get((len(fields), words[0])) if len(words) == 1 else None
    if columns is None:
        forms = ", ".join("/".join(names) for names in _CSV_ROWS.values())
        raise _Malformed(f"{place}: expected the fields {forms}, or a header, found {','.join(fields)!r}")
    return columns


# JSON


_COLOR_KEYS = ("color", "colour", "rgb")


def _read_json(text: str) -> Iterator[_Entry]:
    try:
        data = json.loads(text, object_pairs_hook=_without_doubles)
    except _Malformed:
        raise
    except json.JSONDecodeError as exc:
        raise _Malformed(f"line {exc.lineno}: not JSON ({exc.msg})") from exc
    except (ValueError, RecursionError) as exc:  # numbers of thousands of digits, nesting without end
        raise _Malformed(f"not JSON that can be read ({exc})") from exc
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for number, (key, value) in enumerate(items, start=1):
        place = f"entry {number}"
        if isinstance(data, list):
            yield _json_item(place, value)
        elif isinstance(value, str):
            yield _Entry(place, "ID: NAME", value, key)
        else:
            yield _Entry(place, "NAME: [R, G, B]", key, None, _json_color(place, value))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Malformed(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _json_item(place: str, value: object) -> _Entry:
    if isinstance(value, str):
        return _Entry(place, "a name", value)
    if not isinstance(value, dict) or "name" not in value:
        raise _Malformed(f"{place}: expected a name or an object with a name, found {_shown(value)}")
    if unknown := [key for key in value if key not in ("id", "name", *_COLOR_KEYS)]:
        raise _Malformed(f"{place}: expected the keys name, id and color, found {unknown[0]!r}")
    colors = [key for key in _COLOR_KEYS if key in value]
    if len(colors) > 1:
        raise _Malformed(f"{place}: expected one colour, found {' and '.join(colors)}")
    color = _json_color(place, value[colors[0]]) if colors else None
    return _Entry(place, f"an object with {', '.join(sorted(value))}", value["name"], value.get("id"), color)


def _json_color(place: str, value: object) -> list[object]:
    if not isinstance(value, list) or len(value) != 3:
        raise _Malformed(f"{place}: expected a colour [R, G, B], found {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


# What holds for all formats


def _checked(entries: list[_Entry]) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """The classes in the order of their ids. Raises _Malformed where they are no complete set."""
    if not entries:
        raise _Malformed("line 1: expected class names, found none")
    first = entries[0]
    names: dict[str, str] = {}
    for entry in entries:
        if entry.form != first.form:
            raise _Malformed(
                f"{entry.place}: expected {first.form} as in {first.place}, found {entry.form} "
                f"({_shown(entry.name)})"
            )
        name = _name(entry)
        if name in names:
            raise _Malformed(f"{entry.place}: the name {name!r} stands in {names[name]} already")
        names[name] = entry.place
    colors = [_color(entry.place, entry.color) for entry in entries if entry.color is not None]
    order = _order(entries)
    listed = list(names)
    return tuple(listed[i] for i in order), tuple(colors[i] for i in order) if colors else ()


def _name(entry: _Entry) -> str:
    name = entry.name.strip() if isinstance(entry.name, str) else ""
    if not name or not name.isprintable():
        raise _Malformed(
            f"{entry.place}: expected a class name of printable text, found {_shown(entry.name)}"
        )
    return name


def _color(place: str, values: Sequence[object]) -> Color:
    red, green, blue = (_whole(value) for value in values)
    if red is None or green is None or blue is None or max(red, green, blue) > 255:
        found = ", ".join(str(value) for value in values)
        raise _Malformed(f"{place}: expected a colour of three whole numbers from 0 to 255, found {found}")
    return red, green, blue


def _order(entries: list[_Entry]) -> list[int]:
    """Positions of the entries by id; as they stand where there are no ids."""
    if entries[0].id is None:
        return list(range(len(entries)))
    position: dict[int, int] = {}
    for index, entry in enumerate(entries):
        number = _whole(entry.id)
        if number is None or number >= len(entries):
            raise _Malformed(
                f"{entry.place}: expected ids from 0 to {len(entries) - 1}, one for each of the "
                f"{len(entries)} classes, found {_shown(entry.id)}"
            )
        if number in position:
            raise _Malformed(
                f"{entry.place}: the id {number} stands in {entries[position[number]].place} already"
            )
        position[number] = index
    return [position[number] for number in range(len(entries))]


def _whole(value: object) -> int | None:
    """A whole number from 0 on, from JSON or from text; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

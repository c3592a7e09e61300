"""Class files of the formats that people have, and files that are none of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.classes import BUILTIN_CLASSES, ClassSet
from fcn_deploy.classes.reading import named_classes, read_classes
from fcn_deploy.errors import UsageError

ROAD = (("road", "traffic light", "sky"), ((128, 64, 128), (250, 170, 30), (70, 130, 180)))
NAMES = (ROAD[0], ())


def read(folder: Path, content: str | bytes, name: str = "names.txt") -> object:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_classes(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("road\ntraffic light\nsky", NAMES),
        ("road 128 64 128\ntraffic light\t250 170  30\nsky 70 130 180\n", ROAD),
        ("128 64 128\troad\n250 170 30\t\ttraffic light\n70 130 180 sky", ROAD),
        ("0: road\n1: traffic light\n2: sky", NAMES),
        ("0:road\n1:traffic light\n2:sky", NAMES),
        ("2: sky 70 130 180\n0: road 128 64 128\n1: traffic light 250 170 30", ROAD),
        ("1 traffic light\n0 road\n2 sky", NAMES),
        ("0 128 64 128 road\n1 250 170 30 traffic light\n2 70 130 180 sky", ROAD),
        ("road,128,64,128\ntraffic light,250,170,30\nsky,70,130,180", ROAD),
        ("128,64,128,road\n250,170,30,traffic light\n70,130,180,sky", ROAD),
        ("2,sky\n0,road\n1,traffic light", NAMES),
        ("0,road,128,64,128\n2,sky,70,130,180\n1,traffic light,250,170,30", ROAD),
        ("name,r,g,b\nroad,128,64,128\ntraffic light,250,170,30\nsky,70,130,180", ROAD),
        ("name, r, g, b\nroad, 128, 64, 128\ntraffic light, 250, 170, 30\nsky, 70, 130, 180", ROAD),
        ("Blue,Green,Red,Name\n128,64,128,road\n30,170,250,traffic light\n180,130,70,sky", ROAD),
        ("id,name,r,g,b\n1,traffic light,250,170,30\n0,road,128,64,128\n2,sky,70,130,180", ROAD),
        ('["road", "traffic light", "sky"]', NAMES),
        ('{"2": "sky", "0": "road", "1": "traffic light"}', NAMES),
        ('{"road": [128, 64, 128], "traffic light": [250, 170, 30], "sky": [70, 130, 180]}', ROAD),
        ('[{"name": "road"}, {"name": "traffic light"}, {"name": "sky"}]', NAMES),
        (
            json.dumps(
                [{"name": n, "id": i, "colour": c} for i, (n, c) in enumerate(zip(*ROAD, strict=True))]
            ),
            ROAD,
        ),
    ],
)
def test_known_formats(content: str, expected: object, tmp_path: Path) -> None:
    assert read(tmp_path, content) == expected
    assert read(tmp_path, content.replace("\n", "\r\n").encode("utf-8-sig")) == expected, "from Windows"
    commented = (
        content if content[0] in "[{" else "# of a camera\n\n" + content.replace("\n", "\n#\n\n") + "\n"
    )
    assert read(tmp_path, commented) == expected


def test_a_comment_may_stand_behind_a_name_and_a_number_sign_in_one(tmp_path: Path) -> None:
    assert read(tmp_path, "road # where cars go\nlane #2\nC#") == (("road", "lane #2", "C#"), ())


def test_a_csv_file_may_have_names_alone_and_names_that_are_odd(tmp_path: Path) -> None:
    content = 'name\n"wall, door"\n3\n2 wheeler\n'
    assert read(tmp_path, content, "names.csv") == (("wall, door", "3", "2 wheeler"), ())
    assert read(tmp_path, "road\nsky\n", "names.csv") == (("road", "sky"), ())


def test_names_that_hold_numbers_are_names(tmp_path: Path) -> None:
    content = "zone 30\nclass 1 2\n3d object\n1st lane"
    assert read(tmp_path, content) == (tuple(content.split("\n")), ())


@pytest.mark.parametrize(
    ("content", "line", "part"),
    [
        ("a 1 2 3\nb", 2, "expected NAME R G B as in line 1, found NAME"),
        ("a\n# b\nb 1 2 3", 3, "expected NAME as in line 1, found NAME R G B"),
        ("a 1 2 3\n1 2 3 b", 2, "found R G B NAME"),
        ("0: a\n1 b", 2, "expected ID: NAME as in line 1, found ID NAME"),
        ("0 a\nb", 2, "expected ID NAME as in line 1, found NAME"),
        ("a\nb,1,2,3", 2, "found 'b,1,2,3'"),
        ("a,1,2,3\nb", 2, "expected name,r,g,b as in line 1, found name"),
        ("a,1,2,3\n1,2,3,b", 2, "expected name,r,g,b as in line 1, found r,g,b,name"),
        ("name,r,g,b\na,1,2", 2, "expected name,r,g,b as in the header, found 'a,1,2'"),
        ("name,r,g\na,1,2", 1, "expected the columns name and"),
        ("name,name\na,b", 1, "expected the columns name and"),
        ("name,class_11\na,1", 1, "expected the columns name and"),
        ("a, b\nc", 1, "expected the columns name and"),
        ("a,1,2,3\nb,1,2", 2, "expected the fields"),
        ('a,1,2,3\n"b,1,2,3', 2, "not CSV"),
        ("a 1 2 256\nb 1 2 3", 1, "from 0 to 255, found 1, 2, 256"),
        ("a 1 2 3\nb 1 -2 3", 2, "from 0 to 255, found 1, -2, 3"),
        ("a,0.5,0,0\nb,0,0,0", 1, "from 0 to 255, found 0.5, 0, 0"),
        ("a 1 2 3 255\nb 1 2 3 255", 1, "write other names as CSV or JSON"),
        ("1 2 3 a 4 5 6", 1, "write other names as CSV or JSON"),
        ("1 2 3", 1, "expected NAME"),
        ("0: 1 2 3 4 b", 1, "expected NAME"),
        ("a\nb\na", 3, "the name 'a' stands in line 1 already"),
        ("0: a\n0: b", 2, "the id 0 stands in line 1 already"),
        ("0: a\n2: b", 2, 'expected ids from 0 to 1, one for each of the 2 classes, found "2"'),
        ("1: a\n2: b", 2, "expected ids from 0 to 1"),
        ("id,name\n0,a\n-1,b", 3, "expected ids from 0 to 1"),
        ("names:\n  0: a", 1, "expected NAME"),
        ("- a\n- b", 1, "expected NAME"),
        ("a;1;2;3", 1, "expected NAME"),
        ("a = 1", 1, "expected NAME"),
        ("a\tb", 1, "expected NAME"),
        ("a\nb\0", 2, "printable text"),
        ("id,name\n0,\n1,b", 2, "printable text"),
        ("# nothing\n\n", 1, "expected class names, found none"),
        ('["a",\n"b"', 2, "not JSON"),
        ("[]", 1, "expected class names, found none"),
    ],
)
def test_malformed_lines_are_named(content: str, line: int, part: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'names.txt'}, line {line}: ") and part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('["a", 1]', "entry 2: expected a name or an object with a name, found 1"),
        ('["a", {"name": "b"}]', "entry 2: expected a name as in entry 1, found an object with name"),
        (
            '[{"name": "a", "rgb": [1, 2, 3]}, {"name": "b"}]',
            "entry 2: expected an object with name, rgb as in",
        ),
        ('[{"name": "a", "rgb": [1, 2]}]', "entry 1: expected a colour [R, G, B], found [1, 2]"),
        ('[{"name": "a", "rgb": [1, 2, 2.5]}]', "entry 1: expected a colour of three whole numbers"),
        ('[{"name": "a", "rgb": [1, 2, 3], "color": [1, 2, 3]}]', "entry 1: expected one colour"),
        ('[{"name": "a", "trainId": 0}]', "entry 1: expected the keys name, id and color, found 'trainId'"),
        ('[{"name": "a", "id": true}, {"name": "b", "id": 0}]', "entry 1: expected ids from 0 to 1"),
        ('[{"name": null}]', "entry 1: expected a class name of printable text, found null"),
        ('["a", "b\\nc"]', "entry 2: expected a class name of printable text"),
        ('["a", "a"]', "entry 2: the name 'a' stands in entry 1 already"),
        ('{"a": [1, 2, 3], "a": [1, 2, 3]}', "the key 'a' stands twice in one object"),
        ('{"a": 0, "b": 1}', "entry 1: expected a colour [R, G, B], found 0"),
        ('{"0": "a", "b": [1, 2, 3]}', "entry 2: expected ID: NAME as in entry 1"),
        ("[" * 100_000, "not JSON that can be read"),
        (f"[{'1' * 5000}]", "not JSON that can be read"),
        ("7", "expected class names, found none"),
    ],
)
def test_malformed_json_is_named(content: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, content, "names.json")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'names.json'}, ") and part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "is empty"), (b"\x89PNG\xff\xfe", "not a UTF-8"), ("a\nb".encode("utf-16"), "not a UTF-8")],
)
def test_files_that_are_no_text(content: bytes, part: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"names\.txt.*{part}"):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["names.txt", "names.csv"])
@pytest.mark.parametrize(
    "line",
    [
        *("road;1;2;3", "road #804080", "road 0x804080", "0) road", "(0) road"),
        *(
            "road -> 0",
            "road => 0",
            "road \u2192 0",
            "road = 0",
            "road: 0",
            "'road'",
            "\u201croad\u201d",
            "`road`",
        ),
        *("- road", "* road", "\u2022 road", "road:", "road|0", "[road]", "{road}", "<name>road</name>"),
    ],
)
def test_other_formats_are_no_names(line: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{name}, line 2: ")) as caught:
        read(tmp_path, f"sky\n{line}\n", name)
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("name", ["names.txt", "names.csv"])
@pytest.mark.parametrize("header", ["name;r;g;b", "id;name", "Class", "labels", "class name"])
def test_a_header_is_no_name(header: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{name}, line 2: ")) as caught:
        read(tmp_path, f"# of a camera\n{header}\nroad\nsky\n", name)
    assert repr(header) in str(caught.value)


@pytest.mark.parametrize("header", ["name", "Name", "id name", "name r g b", "Red Green Blue Name"])
def test_a_header_in_text_is_no_name(header: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 1: .*header") as caught:
        read(tmp_path, f"{header}\nroad\nsky\n")
    assert repr(header) in str(caught.value)


def test_colors_between_spaces_are_no_name_in_csv(tmp_path: Path) -> None:
    for line in ("road 128 64 128", "128 64 128 road", "0 128 64 128 road"):
        with pytest.raises(UsageError, match=rf"line 1: .*'{line}'"):
            read(tmp_path, f"{line}\nsky\n", "names.csv")


def test_names_of_real_data_sets_are_names(tmp_path: Path) -> None:
    names = (
        *(
            "red",
            "green",
            "id",
            "traffic sign (back)",
            "wall-other",
            "rock/stone",
            "bicycle & rider",
            "St. Nic.",
        ),
        *("m\u00fctze", "lane #2", "C#", "driver's seat", "class", "50% grass", "3d object", "sky!", "what?"),
    )
    for name in ("names.txt", "names.csv"):
        assert read(tmp_path, "\n".join(names), name) == (names, ())


def test_any_name_may_stand_in_quotes_in_csv(tmp_path: Path) -> None:
    names = ("road;1", "'sky'", "a -> b", 'a "b" c', "#804080")
    content = "name\n" + "\n".join('"' + name.replace('"', '""') + '"' for name in names)
    assert read(tmp_path, content, "names.csv") == (names, ())


# Round trips

WORDS = st.text(st.sampled_from("abcdefgßñÄ字-/.'()&"), min_size=1, max_size=6).filter(
    lambda w: w[0] not in "-."
)
PLAIN = (
    st.lists(WORDS, min_size=1, max_size=3)
    .map(" ".join)
    .filter(lambda name: not (name[0] == name[-1] == "'" and len(name) > 1))
)
ANY = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
COLORS = st.tuples(*[st.integers(0, 255)] * 3)


@st.composite
def class_sets(draw, names=PLAIN):
    found = tuple(draw(st.lists(names, min_size=1, max_size=8, unique=True)))
    colors = draw(st.none() | st.tuples(*[COLORS] * len(found)))
    return found, colors or ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classes")


@given(classes=class_sets(), ids=st.sampled_from(["", "{}: ", "{} "]), first=st.booleans(), data=st.data())
@settings(max_examples=100)
def test_text_is_read_back(classes, ids: str, first: bool, data, folder: Path) -> None:
    names, palette = classes
    lines = []
    for i, name in enumerate(names):
        color = " ".join(map(str, palette[i])) if palette else ""
        parts = (color, name) if first else (name, color)
        lines.append(ids.format(i) + " ".join(part for part in parts if part))
    if ids:
        lines = data.draw(st.permutations(lines))
    assert read(folder, "\n".join(lines)) == classes


@given(classes=class_sets(ANY), order=st.permutations(["name", "id", "r", "g", "b"]), data=st.data())
@settings(max_examples=100)
def test_csv_with_a_header_is_read_back(classes, order: list[str], data, folder: Path) -> None:
    names, palette = classes
    columns = [column for column in order if palette or column in ("name", "id")]
    rows = [
        {"name": name, "id": i, **(dict(zip("rgb", palette[i], strict=True)) if palette else {})}
        for i, name in enumerate(names)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(data.draw(st.permutations(rows)))
    assert read(folder, text.getvalue(), "names.csv") == classes


@given(classes=class_sets(ANY), data=st.data())
@settings(max_examples=100)
def test_json_is_read_back(classes, data, folder: Path) -> None:
    names, palette = classes
    objects = [
        {"name": name, "id": i, **({"color": palette[i]} if palette else {})} for i, name in enumerate(names)
    ]
    forms = [data.draw(st.permutations(objects))]
    forms.append(dict(zip(names, palette, strict=True)) if palette else list(names))
    if not palette:
        forms.append({str(i): name for i, name in data.draw(st.permutations(list(enumerate(names))))})
    for form in forms:
        assert read(folder, json.dumps(form), "names.json") == classes


@given(content=st.text(max_size=60) | st.text(st.sampled_from('ab 0123:,#\n\t"[]{}'), max_size=40))
@settings(max_examples=200)
def test_any_text_is_read_or_refused_in_one_sentence(content: str, folder: Path) -> None:
    try:
        names, palette = read(folder, content)
    except UsageError as exc:
        assert "\n" not in str(exc)
    else:
        assert names and len(set(names)) == len(names) and len(palette) in (0, len(names))


# Names on the command line


@pytest.mark.parametrize("name", BUILTIN_CLASSES)
def test_a_built_in_set_is_found_by_its_name(name: str) -> None:
    assert named_classes(name) == BUILTIN_CLASSES[name]


def test_a_file_wins_over_a_built_in_set_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid").mkdir()
    assert named_classes("camvid") == BUILTIN_CLASSES["camvid"]
    (tmp_path / "voc").write_text("a\nb\n")
    assert named_classes("voc") == ClassSet(("a", "b"))


def test_a_name_that_is_neither_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kitti does not exist; give a file .* camvid, voc"):
        named_classes("kitti")
    with pytest.raises(UsageError, match="is a folder"):
        named_classes(tmp_path)

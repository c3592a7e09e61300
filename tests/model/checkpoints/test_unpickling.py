"""Pickles read as data: what is hostile in them is never done."""

from __future__ import annotations

import contextlib
import copyreg
import io
import mmap
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_pickles import (
    CONTAINERS,
    EXTENSION,
    MODULE,
    hostile,
    hostile_classes,
    module_with,
    named,
    program,
    tensor,
    text,
    zip_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.read import read
from fcn_deploy.model.checkpoints.unpickling import Call, MalformedPickle, Name, Persistent, parse

KINDS = tuple(hostile(Path("canary"), Path("code.py")))


def parsed(data: bytes) -> Any:
    return parse(io.BytesIO(data))


# Hostile pickles


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def pickles(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Hostile pickles in a process that has everything they name."""
    code = tmp_path / "code.py"
    code.write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    made = hostile(canary, code)
    zip_file(tmp_path / "nested.pth", made["REDUCE"])
    monkeypatch.setitem(sys.modules, MODULE, hostile_classes(canary))
    copyreg.add_extension(*EXTENSION)
    yield made
    copyreg.remove_extension(*EXTENSION)
    copyreg.clear_extension_cache()


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_the_hostile_pickles_runs_code_where_it_is_unpickled(
    kind: str, pickles, canary: Path
) -> None:
    """Otherwise the tests below would show nothing."""
    with contextlib.suppress(Exception):  # some fail after they have run
        pickle.loads(pickles[kind])
    assert canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_it_runs_where_it_is_read_as_data(kind: str, pickles, canary: Path) -> None:
    ran: set[str] = set()

    def watch(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            ran.add(Path(frame.f_code.co_filename).name)
        elif event == "c_call" and arg.__name__ in (
            "eval",
            "exec",
            "__import__",
            "mkdir",
            "loads",
            "getattr",
        ):
            ran.add(arg.__name__)

    "".encode("raw-unicode-escape")  # so that no codec has to be imported below
    stream = io.BytesIO(pickles[kind])
    sys.setprofile(watch)
    try:
        parse(stream)
    except MalformedPickle:
        sys.setprofile(None)
    sys.setprofile(None)
    assert not canary.exists()
    # Methods of dataclasses have no file; typing is a cast.
    assert ran <= {"unpickling.py", "pickletools.py", "<string>", "typing.py"}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_it_runs_where_a_checkpoint_is_read(
    kind, container, pickles, canary, tmp_path: Path
) -> None:
    path = CONTAINERS[container](tmp_path / "hostile.pth", pickles[kind])
    with pytest.raises(ModelError, match=r"hostile\.pth"):
        read(path)
    assert not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_it_runs_as_a_part_of_a_module_that_is_taken(
    kind, pickles, canary, tmp_path: Path
) -> None:
    """A whole module with a weight, and with the hostile object as an attribute of its own."""
    protocol, part = pickles[kind][:2], pickles[kind][2:-1]
    if kind == "REDUCE, protocol 0":
        protocol, part = b"\x80\x02", pickles[kind][:-1]
    weight = tensor(b"K\x04", b"K\x00", b"K\x04\x85", b"K\x01\x85")
    body = protocol + module_with(weight, text("hook") + part) + b"."
    path = zip_file(tmp_path / "module.pth", body, {"0": struct.pack("<4f", 1, 2, 3, 4)})
    if kind.startswith("EXT"):
        with pytest.raises(ModelError, match="opcode EXT"):
            read(path)
    else:
        assert read(path).state["weight"].tolist() == [1, 2, 3, 4]
    assert not canary.exists()


def test_a_hostile_file_is_told_what_it_names(pickles, tmp_path: Path) -> None:
    for kind, name in (
        ("REDUCE", "os.mkdir"),
        ("STACK_GLOBAL, dotted", "shutil.os.mkdir"),
        ("OBJ", "os.mkdir"),
    ):
        with pytest.raises(ModelError, match=f"it holds a `{name}`, and .* can run any code"):
            read(zip_file(tmp_path / "hostile.pth", pickles[kind]))


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    body = program(text("evil\x1b[2J\n") + text("x" * 500) + b"\x93", 4)
    with pytest.raises(ModelError) as caught:
        read(zip_file(tmp_path / "a.pth", body))
    assert str(caught.value).isprintable() and "evil?[2J" in str(caught.value)
    assert len(str(caught.value)) < 600


# What is enormous


LIST_OF_LISTS = b"]" + b"".join(
    b"q" + bytes([i]) + b"]" + b"(" + 50 * (b"h" + bytes([i])) + b"e" for i in range(9)
)

ENORMOUS = {
    "a deep tuple": program(b")" + b"\x85" * 300_000),
    "a deep tuple as a key": program(b"})" + b"\x85" * 300_000 + b"Ns"),
    "deep lists": program(b"]" * 100_000 + b"a" * 99_999),
    "deep dictionaries": program((b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000),
    "deep calls": program(named("train.f") + b")R" * 50_000),
    "calls as arguments": program(b"(" + (named("train.f") + b"(") * 50_000 + b"tR" * 50_000 + b"l"),
    "lists of lists of lists": program(LIST_OF_LISTS),
    "a memo of any index": program(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff"),
    "marks": program(b"(" * 300_000),
    "a text that is not there": program(b"\x8d" + struct.pack("<Q", 1 << 62), 4),
    "bytes that are not there": program(b"\x8e" + struct.pack("<Q", 1 << 40), 4),
    "a bytearray that is not there": program(b"\x96" + struct.pack("<Q", 1 << 40), 5),
    "a frame that is not there": program(b"\x95" + struct.pack("<Q", 1 << 60) + b"N", 4),
    "a number of less than nothing": program(b"\x8b" + struct.pack("<i", -5)),
    "a number of many digits": program(b"I" + b"9" * 100_000 + b"\n"),
    "no protocol": program(b"N", 255),
    "a list that holds itself": program(b"]q\x00h\x00a"),
    "a dictionary that holds itself": program(b"}q\x00" + text("model") + b"h\x00s"),
    "a call that holds itself": program(named("train.f") + b")Rq\x00h\x00b"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ENORMOUS)
def test_what_is_enormous_ends_in_a_sentence(kind: str, container: str, tmp_path: Path) -> None:
    """Not in a crash: torch 2.14 itself ends with a segmentation fault on the key that is a deep tuple."""
    path = CONTAINERS[container](tmp_path / "enormous.pth", ENORMOUS[kind])
    with pytest.raises(ModelError, match=r"enormous\.pth"):
        read(path)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *(bytes([code]) for code in b"().]}(0123NRbdeaoshlstuQ\x81\x85\x86\x87"),
                    *(bytes([code]) for code in b"\x88\x89\x8f\x90\x91\x92\x93\x94"),
                    *(named("os.mkdir"), text("a"), b"q\x00", b"h\x00", b"K\x01", b"ios\nmkdir\n", b"Pa\n"),
                ]
            ),
            st.binary(max_size=3),
        ),
        max_size=40,
    )
)
def test_any_bytes_are_data_or_malformed(parts: list[bytes]) -> None:
    with contextlib.suppress(MalformedPickle):
        parsed(program(b"".join(parts)))


# What an honest pickle says


@settings(max_examples=50)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    protocol=st.sampled_from([3, 4, 5]),
)
def test_plain_data_is_what_it_was(value: Any, protocol: int) -> None:
    assert parsed(pickle.dumps(value, protocol)).value == value


def test_classes_and_functions_are_names_and_calls() -> None:
    found = parsed(pickle.dumps(OrderedDict(a=1), 2))
    assert isinstance(found.value, Call) and found.value.of == Name("collections.OrderedDict")
    assert found.value.pairs == {"a": 1} and list(found.names) == ["collections.OrderedDict"]
    built = parsed(program(named("train.Config") + b")\x81}" + text("lr") + b"K\x01sb")).value
    assert (built.of, built.state) == (Name("train.Config"), {"lr": 1})


def test_sets_are_lists_and_odd_keys_are_not_hashed() -> None:
    assert sorted(parsed(pickle.dumps({1, 2, 3}, 4)).value) == [1, 2, 3]
    (key,) = parsed(pickle.dumps({(1, 2): 3}, 4)).value
    assert type(key) is object


def test_references_to_outside_are_kept(tmp_path: Path) -> None:
    found = parsed(program(text("storage") + b"\x85Q"))
    assert isinstance(found.value, Persistent) and found.value.id == ("storage",)
    assert found.persistent == [found.value]
    source = b"(" + text("module") + named("train.Net") + text("train.py") + text("class Net: ...") + b"tQ"
    assert parsed(program(source)).value == Name("train.Net"), "as old files of torch name a class"


def test_a_stream_is_left_behind_the_pickle(tmp_path: Path) -> None:
    path = tmp_path / "two"
    path.write_bytes(pickle.dumps([1], 2) + pickle.dumps("b", 2) + b"rest")
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert [parse(data).value, parse(data).value] == [[1], "b"]
        assert data.read() == b"rest"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"0",
        b"h\x00",
        b"Na",
        b"NNNs",
        b"Nb",
        b"(l(u",
        b"K\x01K\x02\x93",
        b"\xff",
        b"\x97",
        b"\x98",
        b"]Nb",
    ],
)
def test_what_is_no_pickle_of_torch_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPickle):
        parsed(program(body, 5))

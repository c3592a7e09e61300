"""No source opens a session that takes its threads or its precision from the machine it runs on.

On a CPU with bf16 instructions a bare ``compile_model`` computes in bf16, elsewhere in float32: what a test
finds would depend on the CPU. So tests, benchmarks and examples open sessions through ``fcn_deploy.testing``
or through the package, and the package states threads and precision wherever it opens one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPENERS = ("InferenceSession", "compile_model")
STATED = {
    # Its CPU provider computes in the types of the graph, so there is no precision to state.
    "InferenceSession": {"intra_op_num_threads"},
    "compile_model": {"INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT"},
}
"""What the function around a call, or one that it calls, has to name."""


def name_of(call: ast.Call) -> str:
    """``compile_model`` for ``openvino.Core().compile_model(...)``."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls(tree: ast.AST, names: tuple[str, ...]) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node) in names)


def bare_calls(source: str) -> list[str]:
    """Each call that opens a session, as ``line: name``; none is allowed outside the package."""
    return [f"{call.lineno}: {name_of(call)}" for call in calls(ast.parse(source), OPENERS)]


def unstated_calls(source: str) -> list[str]:
    """Calls that leave threads or precision to the machine, as ``line: name without ...``."""
    tree = ast.parse(source)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = []
    for call in calls(tree, OPENERS):
        around = [function for function in functions.values() if call in ast.walk(function)]
        called = [functions[name_of(c)] for f in around for c in calls(f, tuple(functions))]
        missing = STATED[name_of(call)] - {word for scope in (*around, *called) for word in words(scope)}
        if missing:
            found.append(f"{call.lineno}: {name_of(call)} without {', '.join(sorted(missing))}")
    return found


def words(tree: ast.AST) -> Iterator[str]:
    """The attributes that are assigned and the keys of the dictionaries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant))


def sources(folder: str) -> list[Path]:
    """Benchmarks are not in the source distribution."""
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples", "docs"])
def test_only_the_helpers_open_a_session(folder: str) -> None:
    bare = {
        path.relative_to(ROOT).as_posix(): bare_calls(path.read_text("utf-8")) for path in sources(folder)
    }
    assert not {path: found for path, found in bare.items() if found}, "use fcn_deploy.testing"


def test_the_package_states_threads_and_precision_wherever_it_opens_a_session() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sources("fcn_deploy")}
    assert sum(len(bare_calls(text)) for text in texts.values()) >= 4, "the check no longer sees the calls"
    unstated = {path: unstated_calls(text) for path, text in texts.items()}
    assert not {path: found for path, found in unstated.items() if found}


@pytest.mark.parametrize(
    "source",
    [
        "import onnxruntime as rt\nsession = rt.InferenceSession(path, options)",
        "from onnxruntime import InferenceSession\nsession = InferenceSession(path)",
        "import openvino\ncompiled = openvino.Core().compile_model(path, 'CPU', settings)",
        "import openvino\n\ndef test():\n    openvino.compile_model(path)",
    ],
)
def test_the_check_finds_a_bare_call(source: str) -> None:
    assert len(bare_calls(source)) == 1


def test_the_check_lets_other_uses_of_the_names_pass() -> None:
    source = """
    real = ort.InferenceSession  # compile_model(path)
    monkeypatch.setattr(openvino.Core, "compile_model", note)
    """
    assert bare_calls(source.replace("\n    ", "\n")) == []


OPENED = """
def open(path, options):
    {body}
    return {call}

def settings_of(options):
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = options.threads
    return chosen
"""


@pytest.mark.parametrize(
    ("body", "call", "missing"),
    [
        ("settings = settings_of(options)", "ort.InferenceSession(path, settings)", ""),
        ("settings.intra_op_num_threads = 1", "ort.InferenceSession(path, settings)", ""),
        ("print(settings.intra_op_num_threads)", "ort.InferenceSession(path)", "intra_op_num_threads"),
        (
            "settings = {'INFERENCE_NUM_THREADS': 1, 'INFERENCE_PRECISION_HINT': 'f32'}",
            "core.compile_model(path, 'CPU', settings)",
            "",
        ),
        (
            "settings = {'INFERENCE_NUM_THREADS': 1}",
            "core.compile_model(path, 'CPU', settings)",
            "INFERENCE_PRECISION_HINT",
        ),
    ],
)
def test_the_check_finds_what_is_not_stated(body: str, call: str, missing: str) -> None:
    name = "InferenceSession" if "Inference" in call else "compile_model"
    expected = [f"4: {name} without {missing}"] if missing else []
    assert unstated_calls(OPENED.format(body=body, call=call)) == expected

"""What the documentation shows is run here, and what it lists is what there is."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import fcn_deploy
import fcn_deploy.camera
import fcn_deploy.data
import fcn_deploy.runtimes
import fcn_deploy.testing
from fcn_deploy import errors

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SNIPPETS = DOCS / "snippets"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r'--8<-- "([\w.]+)')

# In the order of the tutorial: later ones use what earlier ones made.
SHELL = [
    *("doctor.sh", "quickstart.sh", "export_safetensors.sh", "export_outputs.sh", "run_more.sh"),
    *("quantize_cpu.sh", "quantize_tensorrt.sh", "build_rtx.sh"),
    *("own_train.sh", "own_export.sh", "own_wrap.sh", "own_check.sh"),
]
PYTHON = [
    "read_spec.py",
    "label_frame.py",
    "stream.py",
    "quantize_python.py",
    "build_engine_python.py",
    "evaluate_python.py",
    "camera_python.py",
    "camera_asyncio.py",
    "wrap_python.py",
]
STANDALONE = ["fake_runtime.py"]
# Each exports once more, or measures, for a quarter of a minute and longer.
SLOW_SHELL = [
    *("export_random.sh", "export_fp16.sh", "quantize_budget.sh", "bench.sh", "bench_sweep.sh"),
    *("camera.sh", "own_kinds.sh", "own_deploy.sh", "own_program.sh"),
]
SLOW_PYTHON = ["export_python.py", "export_module.py", "benchmark.py"]
# What a reader saves under these names; the commands of own_*.sh use them.
SAVED = ["my_network.py", "train_small.py", "write_answers.py", "own_answers.py"]
ANSWERS = ["check_answers.py"]  # run by answers/test_checking.py, and write_answers.py too
EXAMPLES = ["camera_embed.py"]  # run by test_examples.py


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def snippet(name: str) -> str:
    return (SNIPPETS / name).read_text(encoding="utf-8")


def run_in(folder: Path, *command: str) -> str:
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tutorial's commands have been run, in their order."""
    folder = tmp_path_factory.mktemp("docs")
    for name in SAVED:
        shutil.copy(SNIPPETS / name, folder)
    for name in SHELL:
        run_in(folder, "bash", "-euo", "pipefail", "-c", snippet(name))
    return folder


def test_every_snippet_is_run_here_and_shown_somewhere() -> None:
    files = {path.name for path in SNIPPETS.iterdir()}
    assert files == {*SHELL, *PYTHON, *STANDALONE, *SLOW_SHELL, *SLOW_PYTHON, *SAVED, *ANSWERS}
    shown = {name for page in PAGES for name in INCLUDE.findall(page.read_text(encoding="utf-8"))}
    assert shown == {*files, *EXAMPLES}


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(DOCS)], ids=lambda p: p.stem)
def test_docs_show_commands_and_code_from_snippets_only(page: Path) -> None:
    for language, content in blocks(page):
        if language in ("python", "console"):
            assert all(line.startswith("--8<--") for line in content.splitlines()), content


def test_the_readme_shows_snippets_as_they_are() -> None:
    shown = [content for language, content in blocks(ROOT / "README.md") if language in ("python", "console")]
    assert shown == [snippet("quickstart.sh"), snippet("label_frame.py")]


def test_the_tutorial_commands_run(workplace: Path) -> None:
    made = {path.name for path in workplace.iterdir()}
    assert {"model.onnx", "model.safetensors", "rgb.onnx", "model.int8.onnx", "overlay.mp4"} <= made
    assert len(list((workplace / "labels").glob("*.png"))) == 12
    assert not list(workplace.rglob(".*")), "temporary files were left"


@pytest.mark.parametrize("name", PYTHON)
def test_python_snippet_runs(name: str, workplace: Path) -> None:
    run_in(workplace, sys.executable, "-W", "error", str(SNIPPETS / name))


@pytest.mark.parametrize("name", STANDALONE)
def test_python_snippet_needs_no_model(name: str, tmp_path: Path) -> None:
    run_in(tmp_path, sys.executable, "-W", "error", str(SNIPPETS / name))


def test_label_frame_prints_what_the_tutorial_says(workplace: Path) -> None:
    assert "(1, 360, 480) uint8" in run_in(workplace, sys.executable, str(SNIPPETS / "label_frame.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_SHELL)
def test_slow_commands_run(name: str, workplace: Path) -> None:
    run_in(workplace, "bash", "-euo", "pipefail", "-c", snippet(name))
    for told in re.findall(r"(?:-o|--\w+) (\w[\w.]+\.(?:onnx|json|html|svg))\b", snippet(name)):
        assert (workplace / told).is_file(), told
    assert not list(workplace.rglob(".*")), "temporary files were left"


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_PYTHON)
def test_slow_python_snippet_runs(name: str, workplace: Path) -> None:
    run_in(workplace, sys.executable, "-W", "error", str(SNIPPETS / name))


@pytest.fixture(scope="module")
def cli_options() -> dict[str, set[str]]:
    """Command -> its long options, as the command line itself has them."""
    from fcn_deploy.cli.main import app

    group = typer.main.get_command(app)
    return {
        name: {option for param in command.params for option in param.opts if option.startswith("--")}
        for name, command in group.commands.items()
    }


def test_the_reference_lists_every_command_and_option(cli_options: dict[str, set[str]]) -> None:
    text = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    listed = {
        title: {
            option
            for cell in re.findall(r"^\| (`[^|]*)\|", section, re.MULTILINE)
            for option in re.findall(r"`[^`]*?(--[\w-]+)", cell)
        }
        for title, section in re.findall(r"^## ([\w-]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    }
    for command, options in cli_options.items():
        assert listed.get(command) == options - {"--help"}, command


def commands(page: Path) -> list[str]:
    """Command lines shown on a page, or run by the Makefile."""
    text = page.read_text(encoding="utf-8")
    shown = text if page.name == "Makefile" else "\n".join(content for _, content in blocks(page))
    joined = shown.replace("\\\n", " ").replace("$(FCN)", "fcn-deploy")
    return re.findall(r"^\t?fcn-deploy ([a-z].*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "Makefile"], ids=lambda p: p.stem)
def test_every_command_shown_exists_with_its_options(page: Path, cli_options: dict[str, set[str]]) -> None:
    for line in commands(page):
        command, _, rest = line.partition(" ")
        assert set(re.findall(r"(--[\w-]+)", rest)) <= cli_options[command], line


def test_the_makefile_runs_commands() -> None:
    assert len(commands(ROOT / "Makefile")) >= 7


def public_names() -> set[str]:
    """Each by one path: what fcn_deploy itself has is not counted again in a package."""
    names = {
        package.__name__: package.__all__
        for package in (fcn_deploy.camera, fcn_deploy.data, fcn_deploy.runtimes)
    }
    names["fcn_deploy.errors"] = [name for name, value in vars(errors).items() if isinstance(value, type)]
    # The sessions beside these are for our own tests and benchmarks.
    names["fcn_deploy.testing"] = ["FakeRuntime", "Rule"]
    own = set(fcn_deploy.__all__)
    inner = {f"{package}.{name}" for package, found in names.items() for name in set(found) - own}
    return inner | {f"fcn_deploy.{name}" for name in own}


def test_the_reference_lists_exactly_the_public_names() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    listed = [name for text in pages for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)]
    assert len(listed) == len(set(listed)), "a name is on two pages"
    assert set(listed) == public_names()


def test_the_site_knows_every_role_in_the_docstrings() -> None:
    pytest.importorskip("griffe", reason="comes with the extra docs")
    role = runpy.run_path(str(DOCS / "hooks" / "roles.py"))["ROLE"]
    for path in (ROOT / "fcn_deploy").rglob("*.py"):
        assert not re.findall(r":\w+:`[^`]*`", role.sub("", path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize(
    "path", [*SNIPPETS.glob("*.py"), ROOT / "examples" / "camera_embed.py"], ids=lambda p: p.stem
)
def test_what_the_docs_show_imports_public_names_only(path: Path) -> None:
    allowed = public_names() | {name.rpartition(".")[0] for name in public_names()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        assert {name for name in imported if name.startswith("fcn_deploy")} <= allowed


def linked_names() -> list[str]:
    """Names of the reference that pages link to, such as fcn_deploy.camera.Pipeline."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return sorted({name for text in texts for name in re.findall(r"#(fcn_deploy\.[\w.]+)\)", text)})


@pytest.mark.parametrize("name", linked_names())
def test_links_into_the_reference_name_something_public(name: str) -> None:
    assert name in public_names()


def test_the_reference_lists_every_field_of_the_spec() -> None:
    text = (DOCS / "reference" / "model-spec.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == {field.name for field in dataclasses.fields(fcn_deploy.ModelSpec)}


def test_the_reference_draws_the_same_error_tree() -> None:
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^ {4}(.*[─A-Z].*)$", errors.__doc__ or "", re.MULTILINE)
    assert "\n".join(drawn) in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w.-]+)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target

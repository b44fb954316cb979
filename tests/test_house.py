"""The rules of the house: imports point one way, --help is light, what is shipped works."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import charrnn
from charrnn.config import Config, load_config

PACKAGE = Path(charrnn.__file__).parent
ROOT = PACKAGE.parent

ORDER = [
    "charrnn",
    "charrnn.errors",
    "charrnn.limits",
    "charrnn.waiting",
    "charrnn.config",
    "charrnn.text",
    "charrnn.model",
    "charrnn.training.runs",
    "charrnn.training.evaluation",
    "charrnn.training.checkpoint",
    "charrnn.sampling",
    "charrnn.training",
    "charrnn.trained",
    "charrnn.insight",
    "charrnn.bench",
    "charrnn.grid",
    "charrnn.cli",
    "charrnn.__main__",
]
"""From what everything may import to what nothing may. A module's place is that of its longest listed prefix."""


def place(module: str) -> int:
    listed = [name for name in ORDER if module == name or module.startswith(name + ".")]
    return ORDER.index(max(listed, key=len))


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("charrnn", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def imports(path: Path) -> set[str]:
    """Every module of ours that a file names in an import, in functions too; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("charrnn"):
            known = modules()
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in named}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("charrnn")}
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_one_way(module):
    wrong = [name for name in imports(modules()[module]) if place(name) > place(module)]
    if module == "charrnn":  # `load` imports what it needs when it is called
        wrong = [name for name in wrong if name != "charrnn.trained"]
    assert not wrong, f"{module} imports {wrong}"


def test_only_the_commands_and_reports_know_typer_and_rich():
    for module, path in modules().items():
        names = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if any(name.split(".")[0] in ("typer", "rich", "click") for name in names):
            assert module in ("charrnn.cli", "charrnn.training.reporting")


def test_help_loads_neither_torch_nor_numpy_nor_the_configuration():
    code = (
        "import sys, charrnn.cli\n"
        "for arguments in '--help', 'train --help', 'sample --help', 'bench --help', 'grid --help', '--version':\n"
        "    sys.argv = ['charrnn', *arguments.split()]\n"
        "    try: charrnn.cli.main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "    heavy = {'torch', 'numpy', 'yaml', 'safetensors', 'pooch', 'charrnn.config'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_charrnn_loads_no_torch():
    code = "import sys, charrnn; assert 'torch' not in sys.modules and callable(charrnn.load)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_is_done_at_import_that_needs_a_file_or_a_device(tmp_path):
    """Every module imports in an empty folder that is not to be written into, and leaves it empty."""
    code = "import " + ", ".join(name for name in modules() if name != "charrnn.__main__")
    tmp_path.chmod(0o555)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path, env=environment)
    assert list(tmp_path.iterdir()) == []


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_configurations_are_shipped():
    names = {path.stem for path in CONFIGS}
    assert {"default", "shakespeare", "timemachine", "rnn", "gru"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_says_something_of_its_own(path):
    assert load_config(path) != Config() or path.stem == "default"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_trains(path, view, folder, text_file):
    from charrnn.training import loop

    flags = {
        "corpus.source": str(text_file),
        "training.budget": "2 steps",
        "training.precision": "float32",
        "training.engine": "torch",
    }
    run = loop.train(load_config(path, flags=flags), view, folder / "run")
    assert run.last.exists()


def test_the_package_declares_its_version_once():
    assert (
        charrnn.__version__
        in subprocess.run(
            [sys.executable, "-m", "charrnn", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    )


def test_loading_and_sampling_load_nothing_of_torchs_compiler(small_config, view, folder):
    """Such as sympy, which alone takes half a second."""
    from charrnn.training import loop

    loop.train(small_config, view, folder / "run")
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import charrnn\n"
        "charrnn.load('run').sample('3', 5)\n"
        "heavy = {'sympy', 'torch._dynamo', 'torch._inductor', 'pooch', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy - before, heavy - before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", cwd=folder)
    assert done.returncode == 0, done.stderr

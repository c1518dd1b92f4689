"""Who imports whom: the drawing in gptoss_cli/__init__.py, and the promise that --help stays light."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gptoss_cli

_PACKAGE = Path(gptoss_cli.__file__).parent
_BASE = {"errors", "settings", "units", "__init__"}
# What each part of the package may import. A part is a top-level module or folder; some modules are their own.
_MAY_IMPORT = {
    "__init__": set[str](),
    "errors": set[str](),
    "settings": {"errors"},
    "units": set[str](),
    "checkpoint": _BASE,
    "engine": _BASE | {"checkpoint"},
    "harmony": _BASE | {"harmony.events"},
    "harmony.events": _BASE,
    "session": _BASE | {"engine", "harmony", "harmony.events", "steering"},
    "steering": _BASE | {"engine", "harmony", "harmony.events"},
    "archive": _BASE | {"harmony.events"},
    "terminal": _BASE | {"harmony.events"},
    "demo": _BASE,
    "cli": _BASE | {"archive", "checkpoint", "demo", "engine", "harmony", "harmony.events", "session", "terminal"},
    "__main__": {"cli"},
}
_PARTS_OF_THEIR_OWN = ("harmony.events",)
_ONLY_IN = {
    "torch": {"engine"},
    "safetensors": {"engine", "demo"},
    "openai_harmony": {"harmony"},
    "llguidance": {"harmony"},
    "huggingface_hub": {"checkpoint"},
    "markdown_it": {"terminal"},
    "prompt_toolkit": {"terminal"},
    "pygments": {"terminal"},
    "rich": {"terminal"},
    "triton": {"engine"},
    "typer": {"cli"},
}
_STDLIB_AT_TOP = {"checkpoint"}
_TOP_OF_CLI = ("typer", "gptoss_cli.errors", "gptoss_cli.settings", "gptoss_cli.cli", "gptoss_cli.terminal.console")
_HEAVY = (
    "huggingface_hub",
    "numpy",
    "openai_harmony",
    "prompt_toolkit",
    "rich.live",
    "rich.markdown",
    "safetensors",
    "torch",
    "triton",
)


@dataclass(frozen=True)
class _Import:
    """One imported name, where it stands, and whether running the file imports it."""

    file: Path
    line: int
    target: str
    at_top: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.target}"


def _imports(file: Path) -> Iterator[_Import]:
    tree = ast.parse(file.read_text("utf-8"))
    yield from _of_body(tree, file, at_top=True, typing_only=False)


def _of_body(node: ast.AST, file: Path, *, at_top: bool, typing_only: bool) -> Iterator[_Import]:
    for child in ast.iter_child_nodes(node):
        typing = typing_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        inside = not isinstance(child, ast.FunctionDef | ast.Lambda) and at_top
        for target in _targets(child):
            yield _Import(file, getattr(child, "lineno", 0), target, at_top and not typing, typing)
        yield from _of_body(child, file, at_top=inside, typing_only=typing)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports inside the package are written in full"
        assert node.module is not None
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _module(target: str, modules: set[str]) -> str | None:
    """The package's module that `target` is, or is a name in."""
    if target in modules:
        return target
    parent = target.rpartition(".")[0]
    return parent if parent in modules else None


def _part(module: str) -> str:
    inside = module.partition(".")[2] or "__init__"
    own = next((part for part in _PARTS_OF_THEIR_OWN if inside == part), None)
    return own or inside.split(".")[0]


def _files(package: Path) -> dict[str, Path]:
    modules = {}
    for file in sorted(package.rglob("*.py")):
        parts = ("gptoss_cli", *file.relative_to(package).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def _upward_edges(package: Path) -> list[str]:
    files = _files(package)
    found = []
    for module, file in files.items():
        part = _part(module)
        for each in _imports(file):
            target = _module(each.target, set(files))
            if target is not None and _part(target) not in _MAY_IMPORT[part] | {part}:
                found.append(f"{each}, which {part} may not")
    return found


def _cycles(package: Path) -> list[str]:
    files = _files(package)
    imports = {module: [each for each in _imports(file) if not each.typing_only] for module, file in files.items()}
    graph = {
        module: {target for each in found if (target := _module(each.target, set(files))) and target != module}
        for module, found in imports.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as exc:
        cycle = exc.args[1]
        return [str(each) for each in imports[cycle[1]] if _module(each.target, set(files)) == cycle[0]]
    return []


def _misplaced_libraries(package: Path) -> list[str]:
    found = []
    for module, file in _files(package).items():
        part = _part(module)
        for each in _imports(file):
            library = each.target.split(".")[0]
            if part not in _ONLY_IN.get(library, {part}):
                found.append(f"{each}, which only {', '.join(sorted(_ONLY_IN[library]))} may")
            outside = library not in sys.stdlib_module_names and library != "gptoss_cli"
            if each.at_top and outside and part in _STDLIB_AT_TOP:
                found.append(f"{each} at the top, where {part} has only the standard library")
    return found


def _eager_commands(package: Path) -> list[str]:
    found = []
    for module, file in _files(package).items():
        for each in _imports(file) if _part(module) == "cli" else ():
            allowed = each.target == "gptoss_cli.__version__" or each.target.startswith(_TOP_OF_CLI)
            if each.at_top and not allowed and each.target.split(".")[0] not in sys.stdlib_module_names:
                found.append(f"{each} at the top, which belongs into the body of a command")
    return found


def test_no_part_imports_what_lies_above_it() -> None:
    assert _upward_edges(_PACKAGE) == []


def test_no_module_imports_itself_through_others() -> None:
    assert _cycles(_PACKAGE) == []


def test_each_library_is_known_to_one_part() -> None:
    assert _misplaced_libraries(_PACKAGE) == []


def test_a_command_imports_heavy_modules_in_its_body() -> None:
    assert _eager_commands(_PACKAGE) == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (_upward_edges, {"harmony/parser.py": "x = 1\nfrom gptoss_cli.engine import model", "engine/model.py": ""}),
        (_upward_edges, {"engine/model.py": "def f():\n    import gptoss_cli.chat.session", "session.py": ""}),
        (_upward_edges, {"terminal/turn.py": "\nfrom gptoss_cli.harmony import parser", "harmony/parser.py": ""}),
        (
            _cycles,
            {
                "engine/a.py": "\nfrom gptoss_cli.engine.b import B",
                "engine/b.py": "\nfrom gptoss_cli.engine.a import A",
            },
        ),
        (_misplaced_libraries, {"harmony/parser.py": "\nimport torch.nn"}),
        (_misplaced_libraries, {"checkpoint/store.py": "\nimport huggingface_hub"}),
        (_eager_commands, {"cli/ask.py": "\nfrom gptoss_cli.chat.session import ChatSession", "session.py": ""}),
    ],
)
def test_a_wrong_import_is_found_with_file_and_line(
    check: Callable[[Path], list[str]], source: dict[str, str], tmp_path: Path
) -> None:
    for name, text in source.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (report,) = check(tmp_path)
    assert ".py:2: imports " in report


@pytest.mark.parametrize("argument", ["--help", "--version", "ask --help"])
def test_help_and_version_import_nothing_heavy(argument: str, tmp_path: Path) -> None:
    program = "import sys; from gptoss_cli.cli.main import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program, *argument.split()], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "gptoss" in done.stdout
    assert [name for name in _HEAVY if name in done.stderr.split()] == []

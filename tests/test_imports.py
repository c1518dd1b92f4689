"""The structure of the package: the import table of gptoss_cli/README.md, no cycles, short files, a light start."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import gptoss_cli

_PACKAGE = Path(gptoss_cli.__file__).parent
_README = _PACKAGE / "README.md"
# Modules that may import within functions, and why. No other may.
_LATE_IMPORTS = {
    "__main__": "the folder of the user must leave the path before anything is imported",
    "cli.ask": "only a terminal needs the Markdown parser, which an answer in a pipe does not wait for",
    "cli.chat": "the prompt is shown before the modules that answer are imported",
    "cli.conversations": "only `show --raw` needs the vocabulary",
    "cli.definition_conversations": "each command imports only what it needs",
    "cli.definition_convert": "each command imports only what it needs",
    "cli.definition_serve": "each command imports only what it needs",
    "cli.model_opener": "torch is imported when a model is opened",
    "cli.definition": "each command imports only what it needs",
    "cli.main": "--version does not wait for Typer",
    "cli.output": "only --extract and a terminal need the Markdown parser, which an answer does not wait for",
    "cli.plan": "only the demo needs numpy, which takes longer to import than a plan to make",
    "engine.loader": "Triton exists on Linux only",
    "harmony.structured_output": "llguidance is optional",
    "placement.gpus": "torch is asked only if there is a GPU",
    "settings": "help asks for no folder",
    "terminal.console": "most messages fit their line, and the program starts without rich",
    "terminal.typeahead": "termios does not exist on Windows",
}
_LONGEST_FILE = 400
_LONGEST_FUNCTION = 60
_HEAVY = (
    "httpx2",
    "huggingface_hub",
    "llguidance",
    "numpy",
    "openai_harmony",
    "pydantic",
    "prompt_toolkit",
    "rich.live",
    "rich.markdown",
    "safetensors",
    "starlette",
    "torch",
    "triton",
    "uvicorn",
)


@dataclass(frozen=True)
class _Import:
    """One imported name, its position, and True if it is within a function."""

    file: Path
    line: int
    target: str
    late: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: imports {self.target}"


@dataclass
class _Rule:
    """One line of the table: the modules that a package may import, and the libraries that it knows."""

    allowed: set[str]
    exceptions: dict[str, set[str]] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)

    def allows(self, module: str) -> set[str]:
        """Return the entries for `module` of this package."""
        return self.allowed | self.exceptions.get(module, set())


def _table(readme: str) -> dict[str, _Rule]:
    """Return package -> its rule; all leaves share one. Other sections have tables of other things."""
    rules = {}
    _, _, section = readme.partition("\n## Who may import whom\n")
    for line in section.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and "`" in cells[1]:
            clauses = cells[2].split(";")
            rule = _Rule(_quoted(clauses[0]), libraries=_quoted(cells[3]))
            for clause in clauses[1:]:
                module, *more = re.findall(r"`([\w.]+)`", clause)
                rule.exceptions[module] = set(more)
            rules.update(dict.fromkeys(_quoted(cells[1]), rule))
    return rules


def _quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", cell))


def _files(package: Path) -> dict[str, Path]:
    """Return module -> its file. Names are without `gptoss_cli.`; the package itself is the leaf `__init__`."""
    modules = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return modules


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


@cache
def _imports(file: Path) -> list[_Import]:
    return list(_of_body(_tree(file), file, late=False))


def _of_body(node: ast.AST, file: Path, *, late: bool) -> Iterator[_Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child):
            yield _Import(file, getattr(child, "lineno", 0), target, late)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _of_body(child, file, late=late or inside)


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports within the package are written in full"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _module(target: str, modules: dict[str, Path]) -> str | None:
    """Return the module of the package that `target` is, or is a name in."""
    head, _, name = target.partition(".")
    if head != "gptoss_cli":
        return None
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "__init__"


def _edges(package: Path) -> Iterator[tuple[str, str, _Import]]:
    """Yield every import of a module by another: both names, and the import."""
    files = _files(package)
    for module, file in files.items():
        for each in _imports(file):
            target = _module(each.target, files)
            if target is not None and target != module:
                yield module, target, each


def _forbidden_imports(package: Path) -> list[str]:
    rules = _table(_README.read_text("utf-8"))
    found = []
    for module, target, each in _edges(package):
        part = module.partition(".")[0]
        if module == "__main__" or target.partition(".")[0] in {part, "__init__", *_leaves(rules)}:
            continue
        if not any(_is_within(target, entry) for entry in rules[part].allows(module)):
            found.append(f"{each}, which {module} may not")
    return found


def _leaves(rules: dict[str, _Rule]) -> set[str]:
    return {package for package, rule in rules.items() if rule is rules["errors"]}


def _is_within(module: str, entry: str) -> bool:
    return f"{module}.".startswith(f"{entry}.")


def _cycles(package: Path) -> list[str]:
    imports: dict[tuple[str, str], _Import] = {}
    graph: dict[str, set[str]] = {}
    for module, target, each in _edges(package):
        imports[module, target] = each
        graph.setdefault(module, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as exc:
        # Each module of the cycle is imported by the next one.
        return [str(imports[after, before]) for before, after in zip(exc.args[1], exc.args[1][1:], strict=False)]
    return []


def _misplaced_libraries(package: Path) -> list[str]:
    rules = _table(_README.read_text("utf-8"))
    known = {library for rule in rules.values() for library in rule.libraries}
    found = []
    for module, file in _files(package).items():
        rule = rules.get(module.partition(".")[0], _Rule(set()))
        for each in _imports(file):
            library = each.target.partition(".")[0]
            if library in known - rule.libraries:
                found.append(f"{each}, which another package alone knows")
    return found


def _late_imports(package: Path) -> dict[str, list[_Import]]:
    """Return module -> its imports within functions."""
    late = {module: [each for each in _imports(file) if each.late] for module, file in _files(package).items()}
    return {module: imports for module, imports in late.items() if imports}


def _unexpected_late_imports(package: Path) -> list[str]:
    late = _late_imports(package)
    return [f"{each} within a function" for module in late.keys() - _LATE_IMPORTS.keys() for each in late[module]]


def _long_functions(file: Path) -> Iterator[str]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > _LONGEST_FUNCTION:
                yield f"{file}:{node.lineno}: {node.name} has {lines} lines"


def test_every_import_is_in_the_table() -> None:
    assert _forbidden_imports(_PACKAGE) == []


def test_every_line_of_the_table_is_needed() -> None:
    rules = _table(_README.read_text("utf-8"))
    folders = {module.partition(".")[0] for module in _files(_PACKAGE)} - {"__init__", "__main__"}
    assert rules.keys() == folders
    edges = list(_edges(_PACKAGE))
    unused = []
    for package in rules.keys() - _leaves(rules):
        rule = rules[package]
        entries = [(package, rule.allowed), *rule.exceptions.items()]
        for importer, allowed in entries:
            used = [target for module, target, _ in edges if _is_within(module, importer)]
            unused += [(importer, entry) for entry in allowed if not any(_is_within(each, entry) for each in used)]
    assert unused == []


def test_there_is_no_import_cycle() -> None:
    assert _cycles(_PACKAGE) == []


def test_each_library_is_known_to_one_package() -> None:
    assert _misplaced_libraries(_PACKAGE) == []


def test_only_listed_modules_import_within_functions() -> None:
    assert _unexpected_late_imports(_PACKAGE) == []


def test_every_listed_module_imports_within_functions() -> None:
    assert _LATE_IMPORTS.keys() - _late_imports(_PACKAGE).keys() == set()


def test_only_one_module_has_coroutines() -> None:
    asynchronous = ast.AsyncFunctionDef | ast.Await | ast.AsyncWith | ast.AsyncFor
    found = {
        module
        for module, file in _files(_PACKAGE).items()
        if any(isinstance(node, asynchronous) for node in ast.walk(_tree(file)))
    }
    assert found == {"server.app"}


def test_no_file_is_too_long() -> None:
    native = _PACKAGE / "engine" / "kernels" / "native"
    files = [*_PACKAGE.rglob("*.py"), *native.rglob("*.c"), *native.rglob("*.h")]
    lengths = {str(file.relative_to(_PACKAGE)): len(file.read_text("utf-8").splitlines()) for file in files}
    assert {name: lines for name, lines in lengths.items() if lines > _LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    assert [problem for file in _PACKAGE.rglob("*.py") for problem in _long_functions(file)] == []


@pytest.mark.parametrize(
    ("check", "sources"),
    [
        (_forbidden_imports, {"harmony/a.py": "x = 1\nfrom gptoss_cli.engine import model", "engine/model.py": ""}),
        (_forbidden_imports, {"engine/a.py": "def f():\n    import gptoss_cli.chat.b", "chat/b.py": ""}),
        (_forbidden_imports, {"terminal/a.py": "\nfrom gptoss_cli.harmony.parser import B", "harmony/parser.py": ""}),
        (_forbidden_imports, {"chat/a.py": "\nfrom gptoss_cli.engine.loader import load", "engine/loader.py": ""}),
        (_forbidden_imports, {"errors.py": "\nfrom gptoss_cli.checkpoint.store import a", "checkpoint/store.py": ""}),
        (
            _forbidden_imports,
            {"demo/a.py": "if TYPE_CHECKING:\n    from gptoss_cli.checkpoint.b import B", "checkpoint/b.py": ""},
        ),
        (_misplaced_libraries, {"harmony/a.py": "\nimport torch.nn"}),
        (_misplaced_libraries, {"engine/a.py": "def f():\n    import huggingface_hub"}),
        (_misplaced_libraries, {"units.py": "\nfrom rich.console import Console"}),
        (_unexpected_late_imports, {"cli/a.py": "def f():\n    from gptoss_cli.chat import opening"}),
    ],
)
def test_a_wrong_import_is_found_with_file_and_line(
    check: Callable[[Path], list[str]], sources: dict[str, str], tmp_path: Path
) -> None:
    _write(tmp_path, sources)
    (report,) = check(tmp_path)
    assert ".py:2: imports " in report


def test_a_cycle_is_found_even_if_one_import_is_for_annotations(tmp_path: Path) -> None:
    annotations = "if TYPE_CHECKING:\n    from gptoss_cli.engine.b import B"
    _write(tmp_path, {"engine/a.py": annotations, "engine/b.py": "\nfrom gptoss_cli.engine.a import A"})
    assert len(_cycles(tmp_path)) == 2
    assert all(".py:2: imports gptoss_cli.engine." in report for report in _cycles(tmp_path))


def test_a_long_function_is_found_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ndef f():\n" + "    pass\n" * _LONGEST_FUNCTION, "utf-8")
    assert list(_long_functions(tmp_path / "a.py")) == [f"{tmp_path / 'a.py'}:2: f has 61 lines"]


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "ask --help",
        "chat --help",
        "serve --help",
        "list",
        "list --json",
        "config path",
        "completions bash",
    ],
)
def test_a_light_command_imports_nothing_heavy(arguments: str, tmp_path: Path) -> None:
    assert _imported_by(arguments.split(), tmp_path).isdisjoint(_HEAVY)


def test_an_answer_to_a_pipe_does_not_wait_for_the_screen(tmp_path: Path) -> None:
    screen = {"markdown_it", "prompt_toolkit", "pygments", "rich"}
    assert _imported_by(["ask", "-m", "demo", "Hello"], tmp_path).isdisjoint(screen)


def _imported_by(arguments: list[str], folder: Path) -> set[str]:
    """Return the modules that a command line imports."""
    program = "import sys; from gptoss_cli.cli.main import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout
    return set(done.stderr.split())


def _write(package: Path, sources: dict[str, str]) -> None:
    for name, text in sources.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text, "utf-8")

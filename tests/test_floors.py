"""The architecture, checked: imports go down only, at the top of the file, in no circle; modalities stay in adapters."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "evomm"
# From the ground up; what stands in one row may import what stands in the same row.
FLOORS = (
    ("plain", "errors", "resources"),
    ("checkpoints",),
    ("merge",),
    ("genome",),
    ("adapters",),
    ("fitness",),
    ("search",),
    ("run",),
    ("report",),
    ("cli",),
)
LEVEL = {package: level for level, row in enumerate(FLOORS) for package in row}
MODALITIES = {"llm", "vlm", "llava", "sdxl"}


def module_name(path: Path) -> str:
    """``evomm/merge/live.py`` -> ``evomm.merge.live``."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
INSIDE = [name for name in TREES if name != "evomm"]  # evomm/__init__.py only lists public names


def imports(module: str) -> Iterator[str]:
    """Modules of evomm that a module imports, wherever the statement stands."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "evomm")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: a relative import"
            if node.module and node.module.split(".")[0] == "evomm":
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in TREES else node.module for name in whole)


def floor(module: str) -> int:
    """The level of a module's package; the root is above all."""
    return LEVEL[module.split(".")[1]] if "." in module else len(FLOORS)


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Every function of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def test_every_package_has_a_floor() -> None:
    assert {name.split(".")[1] for name in INSIDE} <= set(LEVEL)


def test_imports_go_down_only() -> None:
    edges = [(module, target) for module in INSIDE for target in imports(module)]
    assert len(edges) > 50, "the test sees no imports any more"
    assert [f"{module} imports {target}" for module, target in edges if floor(target) > floor(module)] == []


def test_no_import_cycles() -> None:
    graph = {module: set(imports(module)) - {module} for module in INSIDE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {error.args[1]}")


# Libraries that take seconds to import, and that a merge of folders never needs.
LATE = {
    "evomm.adapters.llm": {"evomm.adapters.llm_model", "evomm.adapters.llm_path"},
    "evomm.adapters.llava": {"evomm.adapters.llava_model"},
    "evomm.adapters.sdxl": {"evomm.adapters.sdxl_model"},
    "evomm.fitness.clip": {"evomm.fitness.clip_models"},
    "evomm.fitness.examples": {"evomm.fitness.parquet"},
    "evomm.search.nsga2": {"evomm.search.nsga2_pymoo"},
    "evomm.checkpoints.lora_names": {"diffusers.loaders.lora_conversion_utils", "diffusers.utils.state_dict_utils"},
    "evomm.checkpoints.locate": {"huggingface_hub", "huggingface_hub.errors"},
    "evomm.checkpoints.converters": {"diffusers.loaders.single_file_utils"},
}


@pytest.mark.parametrize("module", [name for name in INSIDE if not name.startswith("evomm.cli")])
def test_no_late_imports(module: str) -> None:
    """The command line may (its `--help` must be fast); nothing else needs to, but for the few above."""
    late = {
        name
        for f in functions(TREES[module])
        for node in ast.walk(f)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
    }
    assert late == LATE.get(module, set())


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that a statement imports; a module of evomm's under its own name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in TREES else str(node.module) for name in whole)


def test_merging_does_not_pay_for_transformers() -> None:
    """Importing it takes seconds."""
    code = (
        "import sys, evomm.cli.app, evomm.run.make, evomm.report.card; "
        "print([m for m in ('transformers', 'huggingface_hub', 'cma', 'jinja2', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_only_reports_pay_for_charts() -> None:
    """matplotlib takes a second; searching and model cards do without it, though cma would import it."""
    code = (
        "import sys, evomm.run.engine, evomm.report.card; print('matplotlib' in sys.modules); "
        "import evomm.report.page; print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]


def test_tasks_on_text_do_not_pay_for_scorers_of_pictures() -> None:
    code = "import sys; from evomm.fitness.table import load_task; load_task('tiny-math-ja'); print('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_no_dynamic_imports() -> None:
    """Only evomm/__init__.py imports by name."""
    found = [
        module
        for module in INSIDE
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] in {"import_module", "__import__"}
    ]
    assert found == []


def test_only_adapters_ask_for_a_modality() -> None:
    """No `if modality == "llava"` anywhere else."""
    compared = [
        f"{module} line {node.lineno}: {ast.unparse(node)}"
        for module in INSIDE
        if not module.startswith("evomm.adapters")
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Compare | ast.MatchValue)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in MODALITIES
    ]
    assert compared == []


@pytest.mark.parametrize("package", ["merge", "genome", "search", "run"])
def test_no_modality_is_named_below_and_above_the_adapters(package: str) -> None:
    """Docstrings may give examples; code may not know."""
    named = []
    for module in (name for name in INSIDE if name.split(".")[1] == package):
        docs = {id(node.value) for node in ast.walk(TREES[module]) if isinstance(node, ast.Expr)}
        for node in ast.walk(TREES[module]):
            text = node.value if isinstance(node, ast.Constant) and id(node) not in docs else getattr(node, "id", "")
            if isinstance(text, str) and any(word in text.lower() for word in ("llava", "sdxl")):
                named.append(f"{module}: {text}")
    assert named == []

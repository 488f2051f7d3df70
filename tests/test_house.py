"""The house rules: doors open one way, importing is pure, files are short and plain, README says what is so."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "cofire"

# A room may import from the lines above its own, and on its line from the rooms to its left.
ROOMS = (
    ("version", "types", "errors", "files"),
    (
        "nonlinearities",
        "pooling",
        "wrappers",
        "listing",
        "watching",
        "taps",
        "kernels",
        "cofiring",
        "accumulate",
        "layer",
        "storage",
        "stats",
    ),
    (
        "progress",
        "processes",
        "batches",
        "weights",
        "recording",
        "windows",
        "images",
        "archives",
        "data",
        "nets",
        "zoo",
        "checkpointing",
        "training",
    ),
    ("correlations", "distributions", "firing", "information", "graphs", "bisection", "modularities", "leiden", "partitions"),
    ("measures",),
    (
        "orders",
        "readings",
        "calls",
        "chains",
        "consumers",
        "moments",
        "resuming",
        "curves",
        "prefixes",
        "ablation",
        "resizing",
        "attention",
        "grouping",
        "heads",
        "refitting",
        "plans",
        "pruning",
        "removals",
        "depths",
        "scoring",
        "margins",
        "baselines",
        "trajectories",
        "following",
        "hypotheses",
        "runs",
        "rankings",
        "hidden",
        "keeping",
        "residuals",
        "correctors",
        "stacking",
        "steps",
        "descents",
        "probes",
        "boosted",
        "gains",
        "controls",
        "boosting",
        "detection",
        "likelihoods",
        "rivals",
        "familiarities",
        "doubts",
        "selective",
        "trusting",
        "regularisation",
        "layouts",
        "structure",
        "comparison",
        "findings",
        "verdicts",
        "scalars",
        "loggers",
        "monitoring",
    ),
    ("plots", "export", "report", "callbacks", "recipes", "sources", "demo", "cli"),
)
ORDER = tuple(room for level in ROOMS for room in level)
DOORS = {"__init__", "__main__"}  # these two may import anything; nobody imports them
SHOWN_BY = {"report": {"cli", "demo"}, "cli": set()}  # rooms that only show things: who may import them all the same

MODULES = sorted(SRC.rglob("*.py"))
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "base", "common", "manager", "misc"}
HEAVY = {"matplotlib", "torchvision", "lightning", "transformers", "datasets", "timm", "sklearn", "playwright", "torch_pruning"}


def each_module(test):
    return pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SRC).as_posix())(test)


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def tracked() -> list[Path]:
    """The files in git or about to be; without git, all files outside hidden folders."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode == 0:
        found = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    return [p for p in found if p.is_file()]


def run_python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600, **options)


def name_called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


# ---------------------------------------------------------------- doors open one way


def imported_rooms(source: str, package: str = "cofire") -> set[str]:
    """Rooms that a module's source imports anywhere, inside functions and for type checking too.

    `package` is the dotted package that the module lives in. A "cofire" in the answer is the front door itself.
    """
    dotted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = resolve_name("." * node.level + (node.module or ""), package)
            # `from cofire import stats` names a room.
            dotted |= {f"cofire.{alias.name}" for alias in node.names} if start == "cofire" else {start}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            dotted |= {str(node.args[0].value)} if name_called(node) in {"import_module", "__import__"} else set()
    ours = [name.split(".") for name in dotted if name.split(".")[0] == "cofire"]
    return {parts[1] if len(parts) > 1 else "cofire" for parts in ours}


def wrong_doors(room: str, imported: set[str]) -> list[str]:
    """What is wrong with a room importing these."""
    if room not in ORDER:
        return [f"{room} has no place in ROOMS"]
    wrong = []
    for other in sorted(imported - {room}):
        if other not in ORDER:
            wrong.append(f"{room} imports {other}, which is no room: import from the room that defines it")
        elif ORDER.index(other) > ORDER.index(room):
            wrong.append(f"{room} imports {other}, which comes after it")
        elif room not in SHOWN_BY.get(other, {room}):
            wrong.append(f"{room} imports {other}, which only shows things")
    return wrong


def test_every_room_is_in_the_table():
    assert len(set(ORDER)) == len(ORDER)
    strangers = sorted({room_of(path) for path in MODULES} - set(ORDER) - DOORS)
    assert strangers == [], "give these a place in ROOMS"


@each_module
def test_imports_go_one_way(path):
    room = room_of(path)
    package = ".".join(("cofire", *path.relative_to(SRC).parts[:-1]))
    imported = imported_rooms(path.read_text("utf8"), package)
    assert room in DOORS or wrong_doors(room, imported) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("stats", "from cofire.recording import record"),
        ("stats", "from cofire import measures"),
        ("stats", "from .record import record"),
        ("stats", "from . import cli"),
        ("stats", "import cofire.measures as m"),
        ("stats", "def f():\n    from cofire.measures import TABLE"),
        ("stats", "import importlib\nimportlib.import_module('cofire.measures')"),
        ("stats", "import cofire"),
        ("stats", "from cofire import FiringStats"),
        ("coactivation", "from cofire.modularity import modularity"),
        ("cli", "import cofire.__main__"),
        ("recipes", "from cofire.report import write"),
    ],
)
def test_a_wrong_door_is_seen(room, source):
    assert len(wrong_doors(room, imported_rooms(source))) == 1


def test_right_doors_are_let_be():
    plain = "import torch\nfrom cofire import files\nfrom cofire.errors import InputError\nfrom .taps import name"
    assert wrong_doors("stats", imported_rooms(plain)) == []
    assert wrong_doors("cli", imported_rooms("from cofire.report import write")) == []
    inside = imported_rooms("from . import svg\nfrom .svg import line\nfrom ..stats import load", "cofire.report")
    assert inside == {"report", "stats"}
    assert wrong_doors("report", inside) == []


# ---------------------------------------------------------------- importing is pure

LOOK_AROUND = """
import json, logging, sys, warnings
import numpy, torch

def globals_now():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic,
                          torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()],
        "how torch prints": str(torch._tensor_str.PRINT_OPTS),
        "torch's random state": torch.random.get_rng_state().tolist(),
        "numpy's random state": [str(part) for part in numpy.random.get_state()],
        "numpy's options": [str(numpy.geterr()), str(numpy.get_printoptions())],
        "warning filters": [str(f) for f in warnings.filters],
        "logging": [logging.root.level, [str(h) for h in logging.root.handlers], logging.root.manager.disable],
        "hooks": [str(sys.excepthook), str(sys.displayhook), sys.getrecursionlimit()],
    }

before = globals_now()
import cofire
for name in getattr(cofire, "__all__", ()):
    getattr(cofire, name)
after = globals_now()
print(json.dumps({"changed": [k for k in before if before[k] != after[k]], "modules": sorted(sys.modules)}))
"""


def test_importing_changes_nothing_and_stays_light():
    done = run_python("-c", LOOK_AROUND)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["changed"] == []
    assert HEAVY & set(seen["modules"]) == set()


def test_help_does_not_wait_for_torch():
    done = run_python("-X", "importtime", "-m", "cofire", "--help")
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert "Usage" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "cofire" in imported
    assert imported & {"torch", "numpy", "pandas", *HEAVY} == set()


# ---------------------------------------------------------------- files are short and plain


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def untidy(source: str, name: str = "room.py") -> list[str]:
    """What a reader of this module would stumble on."""
    tree, wrong, lines = ast.parse(source), [], source.splitlines()
    if len(lines) > 400:
        wrong.append(f"{len(lines)} lines; a room has 400 at most")
    if not re.match(r"[^\n]{10,}[.!?](\n\n|$)", ast.get_docstring(tree, clean=False) or ""):
        wrong.append("the module does not open with one line, a whole sentence, that says what it is for")
    names = exported(tree)
    if names is None and name != "__main__.py":
        wrong.append("there is no __all__")
    if names != sorted(names or [], key=sort_key) and names is not None:
        wrong.append("__all__ is not sorted")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            wrong.append(f"line {node.lineno}: assert; raise an error that says what was wanted, found, to do")
        if isinstance(node, ast.ExceptHandler) and all(isinstance(step, ast.Pass) for step in node.body):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            if caught in {"Exception", "BaseException"}:
                wrong.append(f"line {node.lineno}: an exception swallowed in silence")
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", line):
            wrong.append(f"line {number}: {line.strip()}")
    return wrong


@each_module
def test_modules_are_tidy(path):
    assert untidy(path.read_text("utf8"), path.name) == []


TIDY = '"""Words about the room."""\n\n__all__ = ["BINS", "Layer", "load"]\n'


@pytest.mark.parametrize(
    "source",
    [
        TIDY + "\n" * 400,
        TIDY.replace('"""Words about the room."""', ""),
        TIDY.replace("about the", "about\nthe"),
        TIDY.replace('__all__ = ["BINS", "Layer", "load"]', ""),
        TIDY.replace('"BINS", "Layer"', '"Layer", "BINS"'),
        TIDY + "assert True\n",
        TIDY + "x = 1  # TO" + "DO: later\n",
        TIDY + "raise NotImplemented" + "Error\n",
        TIDY + "try:\n    load()\nexcept Exception:\n    pass\n",
    ],
)
def test_untidiness_is_seen(source):
    assert untidy(TIDY) == []
    assert len(untidy(source)) == 1


def test_names_say_something():
    python = [path for path in tracked() if path.suffix == ".py"]
    assert python
    names = {part.removesuffix(".py") for path in python for part in path.relative_to(ROOT).parts}
    assert names & NAMES_THAT_SAY_NOTHING == set()


def test_types_are_shipped():
    assert (SRC / "py.typed").is_file()


# ---------------------------------------------------------------- tests test something


def asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return name_called(node).startswith(("assert", "check", "expect", "raises", "warns"))
    return isinstance(node, ast.Assert)


def empty_tests(source: str) -> list[str]:
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    return [test.name for test in tests if not any(asserts(node) for node in ast.walk(test))]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.name)
def test_every_test_asserts_something(path):
    assert empty_tests(path.read_text("utf8")) == []


def test_an_empty_test_is_seen():
    assert empty_tests("def test_a():\n    print(1)\n\ndef test_b():\n    assert 1\n") == ["test_a"]


# ---------------------------------------------------------------- nothing of one machine

HOSTS = (("py" + "pi", "org"), ("python" + "hosted", "org"), ("registry", "npm" + "js"), ("deb", "debian"))
PLACES = ("/" + r"work/(?:main|shared|steering|\.library)", "/" + "farm/", "/" + "tmp/lab", "/" + "tmp/v/")
FOREIGN = re.compile("|".join([rf"{a}\.{b}" for a, b in (*HOSTS, ("download", "pytorch"))] + list(PLACES)))


def test_no_file_names_a_registry_or_a_place_on_one_machine():
    wrong = []
    for path in tracked():
        found = FOREIGN.search(path.read_bytes().decode("utf8", "replace"))
        if found:
            wrong.append(f"{path.relative_to(ROOT)}: {found.group(0)}")
    assert wrong == []


@pytest.mark.parametrize("text", ["https://" + "py" + "pi.org/simple", "see /" + "work/main/README.md"])
def test_a_foreign_name_is_seen(text):
    assert FOREIGN.search(text)


def test_what_a_repository_needs_is_there_and_small():
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt", ".ci/run"):
        assert (ROOT / name).is_file(), f"{name} is missing"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert [str(p) for p in tracked() if p.stat().st_size > 1_000_000] == []


# ---------------------------------------------------------------- README runs and says what is so

# A ```python block runs after the blocks above it on its page. A ```text block right below it is what it prints.
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```[ ]*$(?:\s*^```text[ ]*\n(.*?)^```[ ]*$)?", re.M | re.S)
NEXT = "======== next block"
PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p.is_file()]


def python_blocks(page: str) -> list[tuple[str, str]]:
    """Each python block of a page with what the page says it prints, empty where it says nothing."""
    return [(code, said) for kind, code, said in BLOCK.findall(page) if kind == "python"]


def printed_by(codes: list[str], folder: Path) -> list[str]:
    script = folder / "page.py"
    script.write_text(f"\nprint({NEXT!r})\n".join(codes), "utf8")
    done = run_python(script.name, cwd=folder, env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout.split(NEXT + "\n")


def test_readme_is_written():
    assert (ROOT / "README.md").read_text("utf8").strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_prints_what_it_says(page, tmp_path):
    blocks = python_blocks(page.read_text("utf8"))
    if not blocks:
        pytest.skip("no python block on this page")
    for (code, said), printed in zip(blocks, printed_by([code for code, _ in blocks], tmp_path), strict=True):
        assert not said or printed.rstrip() == said.rstrip(), code


def test_a_page_that_lies_is_seen(tmp_path):
    page = "```python\nx = 2\n```\n\nWords.\n\n```python\nprint(x + 1)\n```\n\n```text\n4\n```\n"
    blocks = python_blocks(page)
    assert [said for _, said in blocks] == ["", "4\n"]
    assert printed_by([code for code, _ in blocks], tmp_path)[1] == "3\n"


def commands(page: str) -> list[list[str]]:
    """The `cofire ...` lines of a page's shell blocks, as words."""
    shell = "\n".join(code for kind, code, _ in BLOCK.findall(page) if kind in {"bash", "sh", "console"})
    lines = [shlex.split(line.removeprefix("$ "), comments=True) for line in shell.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words[:1] == ["cofire"] and len(words) > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_names_options_that_exist(page):
    lines = commands(page.read_text("utf8"))
    if not lines:
        pytest.skip("no cofire command on this page")
    for words in lines:
        verb = [words[1]] if not words[1].startswith("-") else []
        plain = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        shown = run_python("-m", "cofire", *verb, "--help", env=plain)
        assert shown.returncode == 0, f"{shlex.join(words)}: {shown.stderr}"
        for option in (word.split("=")[0] for word in words[1:] if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown.stdout), f"{shlex.join(words)}: {option}"


def test_readme_table_is_that_of_the_measures():
    import cofire

    rows = [f"| `{m.name}` | {m.axes} | {m.unit} | {m.words} |" for m in cofire.MEASURES if hasattr(cofire, m.name)]
    text = (ROOT / "README.md").read_text().partition("| --- | --- | --- | --- |\n")[2].partition("\n<!-- end -->")[0]
    assert text.splitlines() == rows, "put these rows into README.md:\n" + "\n".join(rows)

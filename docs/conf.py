"""How the pages are built.

Pages are Markdown. What could fall behind the code is made at build time: a page for every room, the list of rooms,
the table of measures and the gallery. Mathematics becomes MathML, which browsers draw without a script.
"""

import ast
import dataclasses
import functools
import importlib
import pkgutil
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

import cofire
from cofire.version import __version__

HERE = Path(__file__).parent

project = "cofire"
author = "the cofire authors"
copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"cofire {release}"
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Range", "Source", "Departure"]


@functools.cache
def rooms() -> list[str]:
    """Names of the public modules, those that come later in the flow included as soon as they exist."""
    return sorted(found.name for found in pkgutil.iter_modules(cofire.__path__) if not found.name.startswith("_"))


def write_api_pages() -> None:
    """One page per room in docs/api; pages of rooms that are gone go too."""
    folder = HERE / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for room in rooms():
        name = f"cofire.{room}"
        page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"
        (folder / f"{room}.md").write_text(page, "utf8")


def cell(value: object) -> str:
    text = f"`{value.__name__}`" if callable(value) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")


def measures_table() -> str:
    """The rows of cofire.measures as a Markdown table, a column per field."""
    if "measures" not in rooms():
        return "*The table comes with the room `measures`.*"
    module = importlib.import_module("cofire.measures")
    exported = [getattr(module, name) for name in module.__all__]
    tables = [list(table.values()) if isinstance(table, dict) else table for table in exported]
    rows = next(t for t in tables if isinstance(t, list | tuple) and t and dataclasses.is_dataclass(t[0]))
    columns = [field.name for field in dataclasses.fields(rows[0])]
    lines = [" | ".join(column.replace("_", " ") for column in columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(getattr(row, column)) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def baselines_table() -> str:
    """The rows of cofire.baselines as a Markdown table."""
    rows = importlib.import_module("cofire.baselines").BASELINES
    lines = [f"| `{row.name}` | {row.of} | {cell(row.words)} | {row.source} |" for row in rows]
    return "\n".join(["| baseline | of | what it says | source |", "| --- | --- | --- | --- |", *lines])


def gallery() -> str:
    """Every script of docs/gallery: the first line of its docstring as a heading, the rest as text, then its code."""
    sections = []
    for script in sorted((HERE / "gallery").glob("*.py")):
        source = script.read_text("utf8")
        tree = ast.parse(source)
        title, _, words = (ast.get_docstring(tree) or script.stem).partition("\n")
        first = tree.body[0].end_lineno + 1 if ast.get_docstring(tree) else 1
        code = f"```{{literalinclude}} gallery/{script.name}\n:language: python\n:lines: {first}-\n```"
        sections.append(f"## {title.rstrip('.')}\n\n`{script.name}`\n\n{words.strip()}\n\n{code}")
    return "\n\n".join(sections) or "*The gallery is empty.*"


def rooms_table() -> str:
    """The rooms, level by level as the house test orders them, each with the first line of its docstring."""
    house = ast.parse((HERE.parent / "tests" / "test_house.py").read_text("utf8"))
    plan = next(n for n in house.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "ROOMS")
    lines = ["| | room | what it is |", "| --- | --- | --- |"]
    for level, row in enumerate(ast.literal_eval(plan.value)):
        for room in (room for room in row if room in rooms()):
            first = (importlib.import_module(f"cofire.{room}").__doc__ or "").partition("\n")[0]
            lines.append(f"| {level} | [`{room}`](api/{room}.md) | {cell(first)} |")
    return "\n".join(lines)


def front_door() -> str:
    """The names that `import cofire` offers, each with the first line of its docstring."""
    lines = ["| name | what it is |", "| --- | --- |"]
    for name in getattr(cofire, "__all__", ()):
        thing = getattr(cofire, name)
        if hasattr(thing, "__module__"):
            first = (thing.__doc__ or "").partition("\n")[0]
            lines.append(f"| {{py:obj}}`cofire.{name} <{thing.__module__}.{name}>` | {cell(first)} |")
    return "\n".join(lines)


MADE = {
    "api": ("<!-- front door -->", front_door),
    "architecture": ("<!-- rooms -->", rooms_table),
    "gallery": ("<!-- gallery -->", gallery),
    "measures": ("<!-- measures -->", measures_table),
    "runs": ("<!-- baselines -->", baselines_table),
}


def fill_in(_app, docname: str, source: list[str]) -> None:
    if docname in MADE:
        mark, make = MADE[docname]
        source[0] = source[0].replace(mark, make())


def mathml(translator, node: nodes.Element, block: bool) -> None:
    """Write one formula as MathML; one that cannot be read is a warning, and so an error."""
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        formula = f"<code>{translator.encode(node.astext())}</code>"
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app) -> None:
    write_api_pages()
    app.connect("source-read", fill_in)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda translator, node: mathml(translator, node, block=False), None),
        block_renderers=(lambda translator, node: mathml(translator, node, block=True), None),
    )

"""The HTML page: template, style and viewer put together into one file that fetches nothing."""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import Any

from cofire.report.columns import encode
from cofire.report.contents import Payload

__all__ = ["assembled", "bundle", "embedded"]

_IMPORT = re.compile(r'^import (\{[^}]*\}|\* as \w+) from "([./\w-]+)";$', re.M)
_EXPORT = re.compile(r"^export (?:const|(?:async )?function) (\w+)", re.M)


def assembled(shown: Payload, numbers: str) -> str:
    """The whole page.

    Args:
        shown: What it shows.
        numbers: Name of the JSON file beside it.
    """
    headers, data = encode(shown.columns)
    script, style = bundle("main.js"), _read("style.css")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(shown.meta["title"]),
        "numbers": html.escape(numbers),
        "style": style,
        "meta": embedded({**shown.meta, "columns": headers, "numbers_file": numbers}),
        "data": data,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def bundle(entry: str) -> str:
    """The viewer's modules as one script, each in a function of its own, those that others import first.

    The files are plain ES modules. A page opened from a disk cannot import others, so their import and export lines, each on
    a line of its own, become names here; nothing else is changed.
    """
    done: dict[str, str] = {}
    _add(entry, done, ())
    return '"use strict";\nconst modules = {};\n' + "\n".join(done.values())


def _add(path: str, done: dict[str, str], waiting: tuple[str, ...]) -> None:
    if path in done or path in waiting:
        return
    source = _read(path)

    def named(match: re.Match[str]) -> str:
        target = _join(path, match[2])
        _add(target, done, (*waiting, path))
        names = match[1].replace(" as ", ": ") if match[1].startswith("{") else match[1].removeprefix("* as ")
        return f'const {names} = modules["{target}"];'

    body = _IMPORT.sub(named, source)
    names = _EXPORT.findall(body)
    body = re.sub(r"^export ", "", body, flags=re.M)
    done[path] = f'// {path}\nmodules["{path}"] = (() => {{\n{body}\nreturn {{ {", ".join(names)} }};\n}})();'


def _join(here: str, target: str) -> str:
    parts = here.split("/")[:-1]
    for step in target.split("/"):
        if step == "..":
            parts.pop()
        elif step != ".":
            parts.append(step)
    return "/".join(parts)


def _read(name: str) -> str:
    return files("cofire.report").joinpath("viewer", *name.split("/")).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

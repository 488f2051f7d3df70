"""Recipes that run the papers' experiments again and say which claims hold."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from cofire.errors import InputError
from cofire.recipes.running import Draw, Found, Settings, held, measured, put, read, write

__all__ = ["RECIPES", "Recipe", "reproduce", "rewrite"]


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Args:
        title: What it reproduces.
        room: Where it is.
        function: Its name there.
        parts: What can be run alone.
        adds: Whether parts that are run one by one into the same folder come together on one page.
        draws: Whether its room has a function ``draw``, which makes figures of its numbers.
    """

    title: str
    room: str
    function: str
    parts: tuple[str, ...]
    adds: bool = False
    draws: bool = False

    @property
    def run(self) -> Callable[[Settings], Found]:
        """The function that runs it."""
        return getattr(import_module(f"cofire.recipes.{self.room}"), self.function)

    @property
    def draw(self) -> Draw | None:
        """The function that makes its figures, where it has some."""
        return import_module(f"cofire.recipes.{self.room}").draw if self.draws else None


_DENSE = ("mnist", "mnist-mixed", "fashion-mnist", "fashion-mnist-mixed", "cifar10", "plantvillage")
_DEEP = ("resnet50-cifar10", "inception-v3-cifar100", "resnet50-plantvillage")

RECIPES = {
    "000-entropy": Recipe(
        "Entropy over a training (papers 000 and 001)", "entropies", "run", (*_DENSE, *_DEEP), adds=True, draws=True
    ),
    "000-boost": Recipe(
        "The auxiliary net (paper 000)",
        "boosting",
        "run",
        ("mnist", "fashion-mnist", "cifar10", "vgg16-cifar10", *_DEEP),
        adds=True,
    ),
    "001": Recipe("Modularity and unique units over a training (paper 001)", "evolving", "run", _DENSE, adds=True),
    "002": Recipe("How many fully connected layers (paper 002)", "depth", "run", ("mnist", "cifar10", "cifar10-conv")),
    "memorise": Recipe(
        "Memorising or learning? An experiment of our own", "memorising", "run", ("mnist", "fashion-mnist", "cifar10")
    ),
    "004": Recipe("Which neurons matter (paper 004)", "removing", "run", ("004-2x200", "004-3x200"), draws=True),
}
"""The recipes by the number of their paper."""


def reproduce(name: str, settings: Settings, out: Path) -> tuple[Found, Path, Path]:
    """Run a recipe and write its page, its numbers and its figures.

    Where a recipe's parts add up, the nets that an earlier run left in the folder, and this one does not train again, stay on
    the page, each with the command that made it; verdicts are those of all.

    Args:
        name: One of :data:`RECIPES`.
        settings: How to run it.
        out: The folder for ``NAME.md``, ``NAME.json`` and ``NAME-1.svg``, where there are figures.

    Returns:
        What it found, the page and the numbers.

    Raises:
        InputError: No such recipe, or no such part of it.
        FileError: The folder holds a file of the recipe's name with something else in it.
    """
    recipe = _recipe(name)
    odd = [part for part in settings.only or () if part not in recipe.parts]
    if odd or settings.only == ():
        raise InputError(f"the parts of {name} are {', '.join(recipe.parts)}", f"found {', '.join(map(repr, odd)) or 'none'}")
    if settings.seeds < 1:
        raise InputError("there must be at least one seed", f"found {settings.seeds}")
    settings = replace(settings, command=_command(name, settings))
    if recipe.adds:
        settings = replace(settings, earlier=partial(measured, out / f"{name}.json"))
        settings.earlier()  # a file of something else is found before a long run, not after it
    found = recipe.run(settings)
    return found, *write(name, recipe.title, settings, found, out, recipe.draw)


def rewrite(name: str, out: Path) -> Path:
    """Write a recipe's page again from the numbers that a run left in the folder; nothing is trained.

    Where a recipe's parts add up, its verdicts are made anew too, as after joining the numbers of parts that were run apart.

    Args:
        name: One of :data:`RECIPES`.
        out: The folder with ``NAME.json``.

    Raises:
        InputError: No such recipe.
        FileError: There are no numbers, or the file holds something else.
    """
    recipe, numbers = _recipe(name), out / f"{name}.json"
    whole = read(numbers)
    if recipe.adds:
        earlier = partial(measured, numbers)
        whole |= held(
            recipe.run(Settings(None, whole["seeds"], None, None, (), out, command=whole["command"], earlier=earlier))
        )
    return put(name, recipe.title, whole, out, recipe.draw)[0]


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise InputError(f"a recipe is one of {', '.join(RECIPES)}", f"found {name!r}")
    return RECIPES[name]


def _command(name: str, settings: Settings) -> str:
    """The command that gives the same numbers elsewhere: without the folders of this run."""
    words = ["cofire", "reproduce", name, "--seeds", str(settings.seeds)]
    for option, value in (("--limit", settings.limit), ("--epochs", settings.epochs)):
        words += [option, str(value)] if value is not None else []
    return shlex.join([*words, *(word for part in settings.only or () for word in ("--only", part))])

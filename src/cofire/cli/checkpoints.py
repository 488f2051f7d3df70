"""Following the checkpoints of one training with the options of the command line, and writing what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cofire.sources import DataSource, ModelSource

if TYPE_CHECKING:
    import pandas

    from cofire.trajectories import Trajectory

__all__ = ["Follower", "write_tables"]


def write_tables(tables: Mapping[str, "pandas.DataFrame"], folder: Path) -> None:
    """Write each table that has rows as ``NAME.csv``."""
    from cofire.export import write_frame

    for name, frame in tables.items():
        if len(frame):
            write_frame(frame, folder / f"{name}.csv", "a table")


@dataclass(frozen=True)
class Follower:
    """How trainings are followed; the fields are the options of the same names.

    Args:
        model: The model, where checkpoints are weights; None where they are statistics.
        classes: Its outputs.
        source: Its training data.
        seed: Of the data; None for that of each training.
        test: Split for test accuracy.
        normalize: As for batches.
        device: Where to run.
    """

    model: str | None
    classes: int | None
    source: DataSource
    seed: int | None
    test: str | None
    normalize: Any
    device: str | None

    def follow(self, checkpoints: list[Path], folder: Path, mixed: bool = False) -> tuple["Trajectory", Path]:
        """The trajectory of one training, and the statistics of its last checkpoint; its tables are written to the folder.

        Args:
            checkpoints: A folder or files.
            folder: Where statistics and tables go.
            mixed: It was trained on shuffled labels.
        """
        from cofire.hypotheses import TABLES

        path, last = self._statistics(checkpoints) if self.model is None else self._weights(checkpoints, folder, mixed)
        tables = {"trajectory": path.frame(), "correlations": path.correlations()}
        tables |= {f"001-table-{number}": table(path) for number, table in TABLES.items()}
        write_tables(tables, folder)
        return path, last

    def _statistics(self, checkpoints: list[Path]) -> tuple["Trajectory", Path]:
        from cofire.errors import FileError
        from cofire.following import checkpoint_list, followed

        files = checkpoint_list(checkpoints, (".stats", ".safetensors"))
        try:
            return followed(files), [*files.values()][-1]
        except FileError as error:
            raise FileError(error.wanted, error.found, "If these are weights, name their model with --model.") from error

    def _weights(self, checkpoints: list[Path], folder: Path, mixed: bool) -> tuple["Trajectory", Path]:
        from cofire.checkpointing import settings_in
        from cofire.following import follow

        first = checkpoints[0]
        trained = settings_in(first if first.is_dir() else first.parent).get("seed", 0)
        source = replace(self.source, seed=trained if self.seed is None else self.seed)
        source = replace(source, shuffle_labels=True) if mixed else source
        images = source.load()
        net = ModelSource(str(self.model), None, self.classes, 0).build(images)
        net = net if self.device is None else net.to(self.device)
        batches = images.batches(256, normalize=self.normalize)
        unseen = None if self.test is None else replace(source, limit=None).load(self.test)
        test = None if unseen is None else unseen.batches(256, normalize=self.normalize)
        path = follow(net, checkpoints, batches, folder, test, lambda words: typer.echo(f"{folder.name}: {words}"))
        return path, folder / f"{path.names[-1]}.stats"

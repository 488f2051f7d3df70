"""The first run: train a small net on scikit-learn's digits, record it, and write everything there is to see."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cofire.findings import Finding

__all__ = ["run"]


def run(
    folder: str | Path = "cofire-demo",
    *,
    seed: int = 0,
    epochs: int = 20,
    progress: bool = True,
    command: str | None = None,
) -> list["Finding"]:
    """Train a 64-512-512-10 net on digits, record it on the training and the test set, and write a report.

    Writes ``report.html``, ``report.json``, ``units.csv``, ``stats.safetensors``, ``test-stats.safetensors`` and
    ``weights.safetensors``.

    Args:
        folder: Where to write; made if it does not exist.
        seed: Of initial weights and training.
        epochs: Epochs of training.
        progress: Show progress bars on a terminal.
        command: The command to name in the report.

    Returns:
        What there is to say, in words.
    """
    from cofire import data, report
    from cofire.export import write_units
    from cofire.findings import findings
    from cofire.nets import fcnn
    from cofire.recording import record
    from cofire.training import fit
    from cofire.weights import save_weights

    folder = Path(folder)
    train, test = data.load("digits", "train"), data.load("digits", "test")
    model = fcnn([512, 512], 64, 10, dropout=0.2, seed=seed)
    fit(model, train, test, epochs=epochs, seed=seed, progress=progress)
    save_weights(model, folder / "weights.safetensors", {"data": "digits", "seed": seed, "epochs": epochs})
    stats, test_stats = (record(model, images.batches(), progress=progress, cofiring="union") for images in (train, test))
    stats.save(folder / "stats.safetensors")
    test_stats.save(folder / "test-stats.safetensors")
    write_units(stats, folder / "units.csv")
    command = command or f"cofire demo --seed {seed} --epochs {epochs}"
    report.write(stats, folder / "report.html", test=test_stats, title="cofire demo: digits", command=command, seed=seed)
    return findings(stats, test_stats)

"""Commands that look at statistics: measure, graph, report, trajectory."""

from pathlib import Path
from typing import Annotated

import typer

from cofire.cli.checkpoints import Follower, write_tables
from cofire.cli.options import (
    Cache,
    Channels,
    Classes,
    Data,
    Device,
    Download,
    Limit,
    Normalize,
    Page,
    Report,
    Root,
    Seed,
    ShuffleLabels,
    Size,
    Statistics,
    Table,
    app,
    command,
    normal,
    say_all,
)
from cofire.cli.outputs import GRAPHS, output
from cofire.sources import DataSource

__all__ = ["graph", "measure", "report", "trajectory"]


@app.command(epilog="Example: cofire measure train.safetensors --csv units.csv")
def measure(
    stats: Statistics, csv: Table = None,
    units: Annotated[bool, typer.Option("--units", help="Print units instead of layers.")] = False,
    by: Annotated[str, typer.Option(help="Sort units by this column, largest first.")] = "mutual_information",
    top: Annotated[int, typer.Option(help="Units to print.")] = 20,
) -> None:  # fmt: skip
    """Print every measure by layer, or by unit, and write the table of units."""
    from cofire.errors import InputError
    from cofire.export import write_units
    from cofire.findings import findings
    from cofire.measures import summary, table
    from cofire.stats import load

    loaded = load(stats)
    if csv is not None:
        write_units(loaded, csv)
    if units:
        frame = table(loaded)
        if by not in frame.columns:
            raise InputError(f"no column {by!r} to sort by", f"there are {', '.join(frame.columns)}")
        typer.echo(frame.sort_values(by, ascending=False).head(top).to_string(index=False))
    else:
        typer.echo(summary(loaded).set_index("layer").T.to_string())
        typer.echo("")
        say_all(findings(loaded))
    if csv is not None:
        typer.echo(f"\ntable of units written to {csv}")


@app.command(epilog="Example: cofire graph train.safetensors --layer relu2 -o relu2.gexf")
def graph(
    stats: Statistics,
    layer: Annotated[str | None, typer.Option(help="Name of a layer; by default the last.")] = None,
    out: Annotated[
        Path | None, output("--out", "-o", help="Graph to write: .gexf or .graphml, for Gephi.", endings=GRAPHS)
    ] = None,
    top: Annotated[int | None, typer.Option(help="Units per class; by default at most a quarter of the layer.")] = None,
    restrict: Annotated[str, typer.Option(help="class: pairs within a class's units; union: all pairs.")] = "class",
    method: Annotated[str, typer.Option(help="louvain, leiden, bisection or classes.")] = "louvain",
    resolution: Annotated[float, typer.Option(help="Larger gives more communities; Gephi's is the inverse.")] = 1.0,
    edges: Annotated[int | None, typer.Option(help="Write only so many edges, the strongest.")] = None,
    seed: Seed = 0,
) -> None:
    """Print the communities, modularities and entangled classes of a layer, and write its co-firing graph."""
    from cofire.export import write_graph
    from cofire.graphs import coactivation, sensible_top
    from cofire.partitions import communities
    from cofire.stats import load
    from cofire.structure import in_words, structure

    loaded = load(stats)
    chosen = loaded[layer if layer is not None else list(loaded)[-1]]
    made = coactivation(chosen, sensible_top(chosen) if top is None else top, restrict)
    groups = communities(made, method, resolution, seed, seeds=5 if method != "classes" else 1)
    for line in in_words(structure(made, seed), groups, loaded.class_names):
        typer.echo(line)
    if out is not None:
        write_graph(made, out, layer=chosen, class_names=loaded.class_names, groups=groups, edges=edges)
        typer.echo(f"\ngraph written to {out}")


@app.command(
    epilog="Example: cofire trajectory checkpoints/ --model zoo:001-mnist --data mnist --data-root data --test test "
    "-o trajectory/. "
    "Or on statistics recorded before: cofire trajectory epoch0.stats epoch1.stats epoch2.stats -o trajectory/. "
    "Or over seeds, beside trainings on shuffled labels: cofire trajectory seed0/ seed1/ --control mixed0/ --control mixed1/ "
    "--model zoo:001-mnist --data mnist --data-root data -o trajectory/"
)
def trajectory(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Statistics, or with --model weights, or a folder of either; several folders are runs.")
    ],
    out: Annotated[Path, output("--out", "-o", help="Folder for statistics, tables and correlations.", folder=True)],
    model: Annotated[str | None, typer.Option(help="The model, where the checkpoints are weights.")] = None,
    control: Annotated[
        list[Path] | None, typer.Option(help="Folder of the same training on shuffled labels, a control; may be repeated.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Split for test accuracy, such as test.")] = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None, shuffle_labels: ShuffleLabels = False,
    seed: Annotated[int | None, typer.Option(help="Of subsets and shuffled labels; else that of each training.")] = None,
    device: Device = None, download: Download = False, cache: Cache = None, report: Report = None,
) -> None:  # fmt: skip
    """Follow every measure over the checkpoints of a training; what was recorded before is not recorded again.

    Several folders are several runs, such as those of other seeds: correlations, and paper 001's tables, then are means over
    runs, with intervals and the number of runs that share the sign.
    """
    from cofire import report as page
    from cofire.errors import FileError
    from cofire.hypotheses import TABLES
    from cofire.runs import over_runs
    from cofire.stats import load

    several = len(checkpoints) > 1 and all(path.is_dir() for path in checkpoints)
    places = [[path] for path in checkpoints] if several else [checkpoints]
    folders = [out / path.resolve().name for path in checkpoints] if several else [out]
    controls = [out / "control" / path.resolve().name for path in control or ()]
    if len({*folders, *controls}) < len([*folders, *controls]):
        raise FileError(
            "the folders of several runs must have different names",
            f"found {', '.join(map(str, [*checkpoints, *(control or ())]))}",
        )
    source = DataSource(data, "train", data_root, size, channels, limit, seed or 0, shuffle_labels, cache, download)
    follower = Follower(model, classes, source, seed, test, normal(normalize), device)
    followed = [follower.follow(paths, folder) for paths, folder in zip(places, folders, strict=True)]
    runs = [path for path, _ in followed]
    shuffled = [follower.follow([path], folder, mixed=True)[0] for path, folder in zip(control or (), controls, strict=True)]
    found, written = runs[0], "trajectory.csv, correlations.csv, and the tables of paper 001"
    shown = found.correlations()
    if several or shuffled:
        found = joined = over_runs(runs, shuffled)
        written = f"runs.csv, the tables of paper 001 over runs in runs-001-table-3.csv and so on, and for each run {written}"
        frame = joined.frame()
        tables = {f"runs-001-table-{number}": joined.frame(table) for number, table in TABLES.items()}
        write_tables({"runs": frame, **tables}, out)
        known = frame.query(f"statistic in ('partial_spearman', 'spearman') and runs >= {min(2, len(runs))}")
        shown = known.sort_values("statistic", kind="stable")  # partial correlations first
        shown = shown[[name for name in shown if not name.startswith(("beyond_", "shuffled_"))]]
    typer.echo(shown.head(12).to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    for against in ("accuracy", "test_accuracy") if runs[0].test_accuracy is not None else ("accuracy",):
        typer.echo(f"\n{found.verdict(against)}")
    typer.echo(f"\nwritten to {out}: {written}")
    if report is not None:
        drawn = {folder.resolve().name: path for folder, path in zip(folders, runs, strict=True)}
        title = f"{next(iter(drawn))} at {runs[0].names[-1]}"  # whose statistics are on the page beside all trainings
        page.write(load(followed[0][1]), report, title=title, command=command(), seed=seed, trajectories=drawn)
        typer.echo(f"report written to {report}")


@app.command(epilog="Example: cofire report train.safetensors --test test.safetensors -o report.html")
def report(
    stats: Statistics, out: Page = Path("report.html"),
    test: Annotated[Path | None, typer.Option(help="Statistics of the same model on test data.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:  # fmt: skip
    """Write a report that a browser opens, with no network."""
    from cofire import report as room
    from cofire.stats import load

    loaded = load(stats)
    made_by = loaded.header.get("command") or command()
    written = room.write(
        loaded,
        out,
        test=None if test is None else load(test),
        title=title,
        command=made_by,
        seed=loaded.header.get("seed"),
    )
    typer.echo(
        f"written to {written}, {written.stat().st_size / 1e6:.1f} MB; its numbers are in {written.with_suffix('.json')}"
    )

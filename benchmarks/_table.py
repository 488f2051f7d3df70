"""The results as a page: a table per workload, and what they were measured on."""

from pathlib import Path

__all__ = ["BEGIN", "END", "page", "tables", "write_page"]

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def tables(results: dict) -> str:
    """All workloads' tables as Markdown."""
    parts = [_conditions(results)]
    for workload in results["workloads"]:
        parts.append(f"## {workload['title']}\n\n{_head(workload)}\n\n{_table(workload)}")
    return "\n\n".join(parts) + "\n"


def page(text: str, results: dict) -> str:
    """A page with everything between its two markers made anew.

    Raises:
        ValueError: The markers are not there.
    """
    start, end = text.find(BEGIN), text.find(END)
    if not 0 <= start < end:
        raise ValueError(f"the page must hold {BEGIN} and, after it, {END}")
    return f"{text[: start + len(BEGIN)]}\n\n{tables(results)}\n{text[end:]}"


def write_page(path: Path, results: dict) -> None:
    """Put the tables into a page."""
    path.write_text(page(path.read_text("utf8"), results), "utf8")


def _conditions(results: dict) -> str:
    machine, versions = results["machine"], results["versions"]
    words = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{results['date']}, {machine['processor']}, {results['settings']['threads']} thread of {machine['cores']} cores, "
        f"{machine['system']}. {words}."
    )


def _head(workload: dict) -> str:
    plain = workload["plain"]
    return (
        f"Weights: {workload['weights']}. A plain forward pass takes {plain['seconds']['median']:.2f} s of processor time "
        f"({plain['seconds']['min']:.2f} to {plain['seconds']['max']:.2f}) and {_size(plain['peak_bytes'])} at its peak."
    )


def _table(workload: dict) -> str:
    rows = [("what", "what it computes", "time / forward", "bar", "of it, reading", "peak memory"), ("---",) * 6]
    for entry in workload["contenders"]:
        rows.append(_row(entry, workload))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(entry: dict, workload: dict) -> tuple[str, ...]:
    if entry["skipped"]:
        return entry["title"], f"not run: {entry['skipped'].splitlines()[0]}", "", "", "", ""
    ratio, reading = entry["ratio"], entry["reading"]
    scaled = "" if entry["share"] == 1 else f"; timed on {entry['samples']:,} of {workload['samples']:,} samples"
    shown = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
    bar = f"{entry['bar']:.2f}" if entry["bar"] else ""
    return (
        entry["title"], entry["does"] + scaled, f"**{shown}**" if entry["name"].startswith("cofire") else shown, bar,
        f"{reading['median']:.2f}" if reading else "", _size(entry["peak_bytes"]) + ("" if entry["share"] == 1 else " there"),
    )  # fmt: skip


def _size(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"

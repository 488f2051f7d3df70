// All units: sorted by any column, filtered by words and conditions, only the rows in view exist as elements.

import { h, tipped } from "../dom.js";
import { count } from "../numbers.js";
import { matcher } from "./filter.js";

export const title = "Table of units";

const ROW = 28;

/** The columns of the table: how a row's value is read, shown and sorted. */
export function columnsOf(data) {
  const glossary = data.meta.glossary.columns;
  const known = (name) => data.has(`unit/${name}`);
  const plain = (name, digits) => {
    const column = data.column(`unit/${name}`);
    const row = data.measure(name) ?? { ...glossary[name], name };
    return {
      name,
      label: row.label,
      words: row.words,
      unit: row.unit,
      kind: "number",
      value: (r) => column.at(r),
      text: (r) => (column.at(r) === null ? "–" : column.at(r).toFixed(digits)),
    };
  };
  const flag = (name, label) => {
    const column = data.column(`unit/${name}`);
    return {
      name,
      label,
      words: glossary[name].words,
      unit: "",
      kind: "flag",
      value: (r) => column.at(r),
      text: (r) => (column.at(r) ? "yes" : ""),
    };
  };
  const preferred = data.column("unit/preferred_class");
  const className = (r) => (preferred.at(r) === null ? "" : data.classes[preferred.at(r)]);
  const size = Math.max(
    ...data.meta.layers.map((_, i) => Math.abs(data.column("unit/high").at(data.meta.layers[i].first) ?? 0)),
    1e-9,
  );
  const digits = Math.max(1, Math.min(6, 3 - Math.floor(Math.log10(size))));
  return [
    {
      name: "layer",
      label: "Layer",
      words: "Layer of the unit.",
      unit: "",
      kind: "text",
      value: (r) => data.unitAt(r).layer,
      text: (r) => data.layers[data.unitAt(r).layer].name,
    },
    { ...plain("unit", 0), text: (r) => String(data.unitAt(r).unit) },
    {
      name: "preferred_class",
      label: "Preferred class",
      words: glossary.preferred_class.words,
      unit: "",
      kind: "text",
      value: (r) => preferred.at(r),
      text: className,
    },
    plain("firing_rate", 4),
    ...data.measures.filter((measure) => known(measure.name)).map((measure) => plain(measure.name, 4)),
    plain("mean", digits),
    plain("std", digits),
    flag("dead", "Dead"),
    flag("always_on", "Always on"),
  ];
}

/** A field of a CSV file; a text that a spreadsheet would run as a formula gets an apostrophe in front. */
function field(value) {
  let text = value === null ? "" : String(value);
  if (/^[=+@\t\r-]/.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function draw(container, data) {
  const columns = columnsOf(data);
  const total = data.layers.reduce((sum, layer) => sum + layer.shown_units, 0);
  const state = { by: "mutual_information", down: true, rows: [], words: "", layer: "", dead: false };
  const said = h("p", { class: "note", role: "status" });
  const body = h("tbody");
  const heads = columns.map((column) =>
    h(
      "th",
      { scope: "col", class: column.kind === "number" ? null : "text" },
      tipped(h("button", { type: "button", class: "sort", onclick: () => sort(column.name) }, column.label), [
        column.label,
        column.words,
        column.unit ? `Unit: ${column.unit}.` : null,
        "Click to sort.",
      ]),
    ),
  );
  const view = h(
    "div",
    { class: "scroll units", tabindex: "0", role: "region", "aria-label": "Table of units" },
    h("table", { class: "units-table", "aria-rowcount": total }, h("thead", null, h("tr", null, heads)), body),
  );

  function sort(by) {
    state.down =
      state.by === by ? !state.down : columns.find((column) => column.name === by).kind !== "text" && by !== "unit";
    state.by = by;
    update();
  }

  function update() {
    const { test, error } = matcher(state.words, columns);
    const own = state.layer === "" ? null : Number(state.layer);
    const dead = data.column("unit/dead");
    const rows = [];
    for (let row = 0; row < total; row++) {
      if (own !== null && data.unitAt(row).layer !== own) continue;
      if (state.dead && !dead.at(row)) continue;
      if (!error && !test(row)) continue;
      rows.push(row);
    }
    const column = columns.find(({ name }) => name === state.by);
    const values = new Map(
      rows.map((row) => [
        row,
        column.kind === "text" && column.name !== "layer" ? column.text(row) : column.value(row),
      ]),
    );
    const sign = state.down ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === y) return a - b;
      if (x === null || x === "") return 1; // what is not known comes last, whichever way one sorts
      if (y === null || y === "") return -1;
      return (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) * sign || a - b;
    });
    state.rows = rows;
    heads.forEach((head, i) =>
      columns[i].name === state.by
        ? head.setAttribute("aria-sort", state.down ? "descending" : "ascending")
        : head.removeAttribute("aria-sort"),
    );
    said.textContent =
      error ??
      `${count(rows.length)} of ${count(total)} units, sorted by ${column.label.toLowerCase().replace("kl", "KL")}, ${state.down ? "largest" : "smallest"} first.`;
    said.classList.toggle("wrong", Boolean(error));
    view.scrollTop = 0;
    paint();
  }

  function paint() {
    const first = Math.max(0, Math.floor(view.scrollTop / ROW) - 6);
    const shown = state.rows.slice(first, first + Math.min(Math.ceil(view.clientHeight / ROW), 100) + 12);
    const gap = (rows) =>
      h(
        "tr",
        { class: "gap", "aria-hidden": "true" },
        h("td", { colspan: columns.length, style: { height: `${rows * ROW}px` } }),
      );
    const nodes = shown.map((row, k) => {
      const { layer, unit } = data.unitAt(row);
      const cells = columns.map((column) =>
        h(
          "td",
          { class: column.kind === "number" ? null : "text" },
          column.name === "unit"
            ? h(
                "button",
                { type: "button", class: "link", "aria-label": `Show unit ${unit} of ${data.layers[layer].name}` },
                column.text(row),
              )
            : column.text(row),
        ),
      );
      return h(
        "tr",
        {
          "aria-rowindex": first + k + 1,
          class: layer === data.picked.layer && unit === data.picked.unit ? "picked" : null,
          onclick: () => data.pick(layer, unit, true),
        },
        cells,
      );
    });
    const rest = state.rows.length - first - shown.length;
    body.replaceChildren(...(first ? [gap(first)] : []), ...nodes, ...(rest > 0 ? [gap(rest)] : []));
  }

  function save() {
    const lines = [columns.map((column) => column.name).join(",")];
    for (const row of state.rows)
      lines.push(
        columns
          .map((column) =>
            field(
              column.kind === "flag"
                ? Boolean(column.value(row))
                : column.kind === "number" && column.name !== "unit"
                  ? column.value(row)
                  : column.text(row),
            ),
          )
          .join(","),
      );
    const address = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    h("a", { href: address, download: "units.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  let waiting = 0;
  const input = h("input", {
    type: "search",
    placeholder: "class_selectivity > 0.5 and dead = no",
    spellcheck: "false",
    autocomplete: "off",
    oninput: () => {
      state.words = input.value;
      clearTimeout(waiting);
      waiting = setTimeout(update, total > 5000 ? 150 : 0);
    },
  });
  const layer = h(
    "select",
    { "aria-label": "Layer", onchange: () => ((state.layer = layer.value), update()) },
    h("option", { value: "" }, "all layers"),
    data.layers.map((entry, i) => h("option", { value: i }, entry.name)),
  );
  const dead = h("input", { type: "checkbox", onchange: () => ((state.dead = dead.checked), update()) });
  container.append(
    h(
      "p",
      { class: "note" },
      "Filter with words (a layer, a class, a unit's number) and conditions such as ",
      h("code", null, "class_selectivity > 0.5 and firing_rate < 0.2"),
      ". Click a heading to sort, a row to see the unit.",
    ),
    h(
      "div",
      { class: "controls" },
      h("label", { class: "control wide" }, h("span", null, "Filter"), input),
      h("label", { class: "control" }, h("span", null, "Layer"), layer),
      h("label", { class: "control check" }, dead, h("span", null, "dead only")),
      h("button", { type: "button", onclick: save }, "Download CSV"),
    ),
    said,
    view,
  );
  let frame = 0;
  view.addEventListener("scroll", () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(paint);
  });
  new ResizeObserver(paint).observe(view);
  data.onPick(paint);
  update();
}

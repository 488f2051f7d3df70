// What there is to say in words, the key numbers, and one row per layer.

import { h, tipped } from "../dom.js";
import { count, number, percent } from "../numbers.js";

export const title = "Overview";
export const needsLayers = false;

function tiles(meta) {
  const { overview } = meta;
  const tile = (value, label, note) =>
    h("div", { class: "tile" }, h("b", null, value), h("span", null, label), note ? h("small", null, note) : null);
  const tested = overview.test_accuracy !== null;
  const share = (part) => (part ? `${percent(part / overview.units)} of the units` : "no unit does");
  return h(
    "div",
    { class: "tiles" },
    overview.accuracy === null
      ? tile("–", "accuracy", "no predictions recorded")
      : tile(percent(overview.accuracy), "accuracy", `on ${count(overview.samples)} recorded samples`),
    tested
      ? tile(percent(overview.test_accuracy), "test accuracy", `on ${count(overview.test_samples)} test samples`)
      : null,
    tile(count(overview.units), "units", `in ${count(overview.layers)} ${overview.layers === 1 ? "layer" : "layers"}`),
    tile(count(overview.dead), overview.dead === 1 ? "never fires" : "never fire", share(overview.dead)),
    tile(
      count(overview.always_on),
      overview.always_on === 1 ? "fires for every sample" : "fire for every sample",
      share(overview.always_on),
    ),
  );
}

function columns(data) {
  const rows = data.meta.summary;
  const known = data.meta.glossary;
  const words = { ...known.layers, ...Object.fromEntries(known.measures.map((row) => [row.name, row])) };
  const same = (name) => rows.every((row) => row[name] === rows[0][name]);
  const hidden = new Set(["live"]);
  for (const name of ["samples", "bins", "kind", "layout"]) if (same(name) && rows.length > 1) hidden.add(name);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter(
    (name) => !hidden.has(name) && words[name],
  );
  return names.map((name) => ({ name, ...words[name], text: typeof rows[0][name] === "string" }));
}

/** A heading with a tooltip that says what the column means, in which unit, and where it comes from. */
export function term(column) {
  const lines = [
    column.label,
    column.words,
    column.better ? `Large: ${column.better}.` : null,
    column.unit ? `Unit: ${column.unit}.` : null,
    column.source ? `Source: ${column.source}.` : null,
  ];
  return tipped(h("span", { class: "term", tabindex: "0" }, column.label), lines);
}

function layers(data) {
  const rows = data.meta.summary;
  const shown = columns(data);
  const largest = Object.fromEntries(
    shown.map(({ name }) => [name, Math.max(...rows.map((row) => Math.abs(row[name]) || 0))]),
  );
  const cell = (row, column) => {
    const value = row[column.name];
    if (column.text)
      return h(
        column.name === "layer" ? "th" : "td",
        { class: "text", scope: column.name === "layer" ? "row" : null },
        value,
      );
    const whole = Number.isInteger(value) && Math.abs(value) >= 0 && ["units", "samples", "bins"].includes(column.unit);
    const node = h("td", { "data-value": value }, h("span", null, whole ? count(value) : number(value)));
    if (largest[column.name] > 0 && value > 0) node.style.setProperty("--fill", value / largest[column.name]);
    return node;
  };
  return h(
    "div",
    { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Table of layers" },
    h(
      "table",
      { class: "layers" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          shown.map((column) =>
            h("th", { scope: "col", class: column.text ? "text" : null }, term(column), h("small", null, column.unit)),
          ),
        ),
      ),
      h(
        "tbody",
        null,
        rows.map((row) =>
          h(
            "tr",
            null,
            shown.map((column) => cell(row, column)),
          ),
        ),
      ),
    ),
  );
}

function classes(data) {
  const { names, counts, accuracy, test_counts: tests, test_accuracy: tested } = data.meta.classes;
  const columns = [
    ["samples", counts, count],
    ["accuracy", accuracy, percent],
    ["test samples", tests, count],
    ["test accuracy", tested, percent],
  ];
  const shown = columns.filter(([, values]) => values);
  return h(
    "details",
    { open: names.length <= 12 },
    h("summary", null, h("h3", null, `${count(names.length)} ${names.length === 1 ? "class" : "classes"}`)),
    h(
      "div",
      { class: "scroll tall" },
      h(
        "table",
        { class: "classes" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            h("th", { class: "text" }, "Class"),
            shown.map(([name]) => h("th", null, name)),
          ),
        ),
        h(
          "tbody",
          null,
          names.map((name, c) =>
            h(
              "tr",
              null,
              h("th", { class: "text", scope: "row" }, name),
              shown.map(([, values, text]) => h("td", null, text(values[c]))),
            ),
          ),
        ),
      ),
    ),
  );
}

export function draw(container, data) {
  const { meta } = data;
  const first = meta.layers[0];
  container.append(tiles(meta));
  container.append(
    h(
      "ul",
      { class: "findings" },
      meta.findings
        .filter((f) => f.kind !== "data" || f.level === "caution")
        .map((f) => h("li", { class: f.level }, f.text)),
    ),
  );
  if (!meta.summary.length) return;
  const uniform = (key) => meta.layers.every((layer) => layer[key] === first[key]);
  const parts = [
    "One row per layer, in the order of the forward pass. Measures of units are averaged over the layer's live units, softmax entropies over classes.",
    uniform("samples") && uniform("bins")
      ? `All rows: ${count(first.samples)} samples, ${count(first.bins)} histogram bins.`
      : null,
    "Bars compare within a column. Hover over a heading for its meaning.",
  ];
  container.append(
    h("h3", null, "Layers"),
    h("p", { class: "note" }, parts.filter(Boolean).join(" ")),
    layers(data),
    classes(data),
  );
}

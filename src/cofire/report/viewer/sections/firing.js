// Classes by units: how often each unit fires for each class.

import { bytes, ink, legend, sequential } from "../colours.js";
import { choice, fitted, h, hideTip, responsive, sharp, showTip, textWidth } from "../dom.js";
import { count, exact } from "../numbers.js";

export const title = "Firing probability";
export const says = ["firing"];

const WHAT = [
  ["firing", "firing probability"],
  ["means", "mean activation"],
];
const ZOOMS = [
  ["fit", "all units in view"],
  ["4", "4 pixels a unit"],
  ["12", "12 pixels a unit"],
];

/** What the map of one layer is drawn from: units in their order, and the runs of units that prefer one class. */
function arranged(data, { layer, by, what }) {
  const firing = data.column(`firing/${layer}`);
  const means = data.column(`means/${layer}`);
  const listed = data.has(`profile_units/${layer}`) ? data.column(`profile_units/${layer}`).values : null;
  const rows = firing.shape[0];
  const unit = (row) => (listed ? listed[row] : row);
  let order;
  if (by === "class" || by === "likeness") order = Array.from(data.column(`order_${by}/${layer}`).values);
  else {
    const measure = by === "unit" ? null : data.column(`unit/${by}`);
    const value = (row) => measure.at(data.unitRow(layer, unit(row))) ?? -1;
    order = Array.from({ length: rows }, (_, row) => row);
    if (measure) order.sort((a, b) => value(b) - value(a) || a - b);
  }
  const preferred = data.column("unit/preferred_class");
  const runs = [];
  if (by === "class") {
    order.forEach((row, at) => {
      const c = preferred.at(data.unitRow(layer, unit(row)));
      const last = runs[runs.length - 1];
      if (last && last.c === c) last.to = at + 1;
      else runs.push({ c, from: at, to: at + 1 });
    });
  }
  // Means are shown against the unit's own largest one, for units differ in scale.
  const largest = (row) => Math.max(...means.row(row).map((value) => Math.abs(value ?? 0)), 0);
  return {
    firing,
    means,
    order,
    unit,
    runs,
    rows,
    largest: what === "means" ? Array.from({ length: rows }, (_, row) => largest(row)) : null,
  };
}

export function draw(container, data) {
  const { classes } = data;
  const state = { layer: data.start, by: "class", what: "firing", zoom: "fit", shown: null, cell: null };
  const row = Math.max(5, Math.min(24, Math.floor(300 / classes.length)));
  const tall = row * classes.length;
  const labels = Math.min(130, Math.max(...classes.map((name) => Math.ceil(textWidth(name, 12)))) + 12);

  const canvas = h("canvas", { tabindex: "0", role: "img", class: "heat" });
  const spacer = h("div", { class: "spacer" });
  const cursor = h("div", { class: "cursor", hidden: true });
  const view = h("div", { class: "view" }, canvas, spacer, cursor);
  const names = h("canvas", { class: "names", "aria-hidden": "true" });
  const bar = h("canvas", { class: "ramp" });
  const note = h("p", { class: "note" });
  const [low, high] = [h("span"), h("span")];
  const bars = h(
    "div",
    { class: "legend" },
    low,
    bar,
    high,
    h("span", { class: "swatch missing" }),
    h("span", null, "no sample"),
  );

  const geometry = () => {
    const width = Math.max(view.clientWidth, 50);
    const each =
      state.zoom === "fit" ? width / state.shown.rows : Math.max(Number(state.zoom), width / state.shown.rows);
    return { width, each, whole: each * state.shown.rows, shift: state.zoom === "fit" ? 0 : view.scrollLeft };
  };

  function paint() {
    const { firing, means, largest, order, runs, rows } = state.shown;
    const value = (row, c) => {
      if (!largest) return firing.at(row * classes.length + c);
      const found = means.at(row * classes.length + c);
      return found === null ? null : Math.max(0, found / (largest[row] || 1));
    };
    const { width, each, whole, shift } = geometry();
    spacer.style.width = `${Math.max(whole - 1, 0)}px`;
    const under = runs.length ? 22 : 6;
    const context = sharp(canvas, width, tall + under);
    const colours = sequential();
    const missing = bytes("missing");
    const density = canvas.width / width;
    const image = context.createImageData(
      Math.max(1, Math.round(Math.min(width, whole) * density)),
      Math.round(tall * density),
    );
    const steps = image.width;
    const line = new Uint8ClampedArray(4 * steps);
    for (let c = 0; c < classes.length; c++) {
      for (let x = 0; x < steps; x++) {
        // Where a pixel covers several units it shows their mean.
        const from = Math.min(rows - 1, Math.floor((shift + x / density) / each));
        const to = Math.max(from + 1, Math.min(rows, Math.floor((shift + (x + 1) / density) / each)));
        let sum = 0;
        let known = 0;
        for (let k = from; k < to; k++) {
          const share = value(order[k], c);
          if (share !== null) [sum, known] = [sum + share, known + 1];
        }
        line.set(known ? colours[Math.round((255 * sum) / known)] : missing, 4 * x);
        line[4 * x + 3] = 255;
      }
      const [start, end] = [Math.round(c * row * density), Math.round((c + 1) * row * density)];
      const gap = row >= 12 ? Math.round(density) : 0;
      for (let y = start; y < end - gap; y++) image.data.set(line, 4 * steps * y);
    }
    context.putImageData(image, 0, 0);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "center";
    runs.forEach(({ c, from, to }, k) => {
      const [x0, x1] = [from * each - shift, to * each - shift];
      context.fillStyle = k % 2 ? ink("faint") : ink("muted");
      context.fillRect(x0, tall + 3, Math.max(x1 - x0 - 1, 0.5), 3);
      const [left, right] = [Math.max(x0, 0), Math.min(x1, width)];
      const text = c === null ? "dead" : classes[c];
      if (right - left > textWidth(text, 11) + 4) {
        context.fillStyle = ink("muted");
        context.fillText(text, (left + right) / 2, tall + 18);
      }
    });
    const side = sharp(names, labels, tall + under);
    side.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    side.textAlign = "right";
    side.fillStyle = ink("text");
    const every = Math.ceil(13 / row);
    classes.forEach(
      (name, c) => c % every || side.fillText(fitted(name, labels - 10), labels - 8, Math.max((c + 0.5) * row + 4, 10)),
    );
    legend(bar, colours);
    mark();
  }

  /** Shows the cell under the pointer or the keyboard's cursor. */
  function mark(point = null) {
    if (!state.cell) {
      cursor.hidden = true;
      return;
    }
    const { place, c } = state.cell;
    const { each, shift } = geometry();
    const { firing, means, order, unit } = state.shown;
    cursor.hidden = false;
    cursor.style.width = `${Math.max(each, 2)}px`;
    cursor.style.height = `${row}px`;
    cursor.style.left = `${place * each - shift + (state.zoom === "fit" ? 0 : shift)}px`;
    cursor.style.top = `${c * row}px`;
    if (!point) return;
    const at = order[place] * classes.length + c;
    const samples = data.meta.classes.counts[c];
    const lines = [
      `unit ${unit(order[place])} of ${data.layers[state.layer].name}`,
      `class ${classes[c]}`,
      ["P(fires | class)", exact(firing.at(at))],
      ["mean activation", exact(means.at(at))],
    ];
    showTip(point[0], point[1], [...lines, `over ${count(samples)} samples`]);
  }

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const { each, shift } = geometry();
    const place = Math.floor((event.clientX - box.left + shift) / each);
    const c = Math.floor((event.clientY - box.top) / row);
    return place >= 0 && place < state.shown.rows && c >= 0 && c < classes.length ? { place, c } : null;
  }

  canvas.addEventListener("pointermove", (event) => {
    state.cell = cellAt(event);
    state.cell ? mark([event.clientX, event.clientY]) : (mark(), hideTip());
  });
  canvas.addEventListener("pointerleave", () => {
    state.cell = null;
    mark();
    hideTip();
  });
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) data.pick(state.layer, state.shown.unit(state.shown.order[cell.place]), true);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const cell = state.cell ?? { place: 0, c: 0 };
    if (event.key === "Enter") data.pick(state.layer, state.shown.unit(state.shown.order[cell.place]), true);
    if (!move) return;
    event.preventDefault();
    state.cell = {
      place: Math.max(0, Math.min(state.shown.rows - 1, cell.place + move[0])),
      c: Math.max(0, Math.min(classes.length - 1, cell.c + move[1])),
    };
    const box = canvas.getBoundingClientRect();
    const { each, shift } = geometry();
    mark([box.left + (state.cell.place + 0.5) * each - shift, box.top + (state.cell.c + 0.5) * row]);
  });
  view.addEventListener("scroll", () => requestAnimationFrame(paint));

  function change(values) {
    Object.assign(state, values, { cell: null });
    state.shown = arranged(data, state);
    if (state.zoom === "fit") view.scrollLeft = 0;
    view.classList.toggle("fit", state.zoom === "fit");
    const layer = data.layers[state.layer];
    const some =
      state.shown.rows < layer.units
        ? ` (the ${count(state.shown.rows)} most informative of ${count(layer.units)})`
        : "";
    canvas.setAttribute(
      "aria-label",
      `Firing probability of the units of ${layer.name} for each class; arrow keys move, Enter opens a unit`,
    );
    const firing = state.what === "firing";
    const meaning = firing
      ? `colour is the share of the class's samples in which the unit fires, that is, has a value above ${layer.threshold}`
      : "colour is the mean activation over the class's samples, as a share of the unit's largest class mean";
    [low.textContent, high.textContent] = firing
      ? ["0 never fires", "1 fires for every sample"]
      : ["0 or below", "1 the unit's largest class mean"];
    note.textContent = `Each row is a class, each column a unit of ${layer.name}${some}; ${meaning}. ${count(layer.samples)} samples. Shares are kept to 0.0001. Click on a unit to see it below.`;
    paint();
  }

  const measures = data.measures
    .filter((measure) => data.has(`unit/${measure.name}`))
    .map((measure) => [measure.name, measure.label.toLowerCase()]);
  const orders = [
    ["class", "preferred class, then selectivity"],
    ["likeness", "likeness"],
    ["unit", "unit number"],
    ...measures,
  ];
  container.append(
    h(
      "div",
      { class: "controls" },
      choice(
        "Layer",
        data.layers.map((layer, i) => [i, layer.name]),
        data.start,
        (value) => change({ layer: Number(value) }),
      ),
      choice("Colour", WHAT, "firing", (value) => change({ what: value })),
      choice("Units ordered by", orders, "class", (value) => change({ by: value })),
      choice("Width", ZOOMS, "fit", (value) => change({ zoom: value })),
    ),
    note,
    h("div", { class: "heatmap" }, names, view),
    bars,
  );
  change({});
  responsive(view, paint);
}

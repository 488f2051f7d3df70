// What stands under a co-firing graph: units that classes share, the most entangled classes, modularities, communities.

import { ink, legend, sequential } from "../colours.js";
import { figure, fitted, h, hideTip, responsive, sharp, showTip, textWidth, tipped } from "../dom.js";
import { count, counted, exact } from "../numbers.js";

const MOST_ROWS = 20;

/** A table in a place of its own that scrolls where it is too wide. */
function table(label, heads, rows, name = "") {
  return h(
    "div",
    { class: "scroll fit", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: name }, h("thead", null, heads), h("tbody", null, rows)),
  );
}

const head = (text, lines, attributes = {}) =>
  h("th", { scope: "col", ...attributes }, lines ? tipped(h("span", { class: "term", tabindex: "0" }, text), lines) : text);

/** A number with fixed decimals, none of them for a whole one if `short`; no minus before zeros only. */
function fixed(value, decimals, short = false) {
  if (value === null) return "–";
  const text = value.toFixed(short && Number.isInteger(value) ? 0 : decimals);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** Light or dark letters, whichever can be read on a colour. */
function readable([r, g, b]) {
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#15131a" : "#ffffff";
}

/** Many cells at once: a picture of one pixel a cell, enlarged; or averaged, where a cell is smaller than a pixel. */
function small(context, n, shade, box) {
  const picture = h("canvas", { width: n, height: n });
  const inner = picture.getContext("2d");
  const image = inner.createImageData(n, n);
  for (let at = 0; at < n * n; at++) image.data.set([...shade(at), 255], 4 * at);
  inner.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = box[2] < n;
  context.drawImage(picture, ...box);
}

/** Classes by classes as coloured cells, with numbers and names where there is room for them. */
function heatMap(place, data, column, most, label, words) {
  const { classes } = data;
  const n = classes.length;
  const canvas = h("canvas", { tabindex: "0", role: "img", class: "cells", "aria-label": `${label}; arrow keys move` });
  const cursor = h("div", { class: "cursor", hidden: true });
  place.append(canvas, cursor);
  let [left, top, cell] = [0, 0, 1];
  let at = null;

  responsive(place, (width) => {
    const widest = Math.max(...classes.map((name) => textWidth(name, 11)));
    left = Math.ceil(Math.min(widest, 100, width * 0.28)) + 8;
    cell = Math.min(44, (width - left - 1) / n);
    const flat = widest + 4 <= cell;
    top = flat ? 18 : Math.ceil(Math.min(widest, 90)) + 8;
    const side = cell * n;
    const context = sharp(canvas, left + side, top + side);
    const density = canvas.width / (left + side);
    const snap = (value) => Math.round(value * density) / density;
    const colours = sequential();
    const family = getComputedStyle(document.body).fontFamily;
    context.font = `11px ${family}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    const numbered = cell >= Math.max(17, textWidth(String(most), 11) + 5);
    const shade = (value) => colours[most ? Math.round((255 * value) / most) : 0];
    if (cell < 9) small(context, n, (at) => shade(column.at(at)), [left, top, side, side]);
    for (let i = 0; i < n && cell >= 9; i++)
      for (let j = 0; j < n; j++) {
        const value = column.at(i * n + j);
        const colour = shade(value);
        const [x, y] = [snap(left + j * cell), snap(top + i * cell)];
        context.fillStyle = `rgb(${colour.join(", ")})`;
        context.fillRect(x, y, snap(left + (j + 1) * cell) - x - 1, snap(top + (i + 1) * cell) - y - 1);
        if (!numbered || !value) continue;
        context.fillStyle = readable(colour);
        context.fillText(String(value), left + (j + 0.5) * cell, top + (i + 0.5) * cell + 0.5);
      }
    context.strokeStyle = ink("line");
    context.strokeRect(left - 0.5, top - 0.5, side, side);
    context.fillStyle = ink("muted");
    const every = Math.ceil(13 / cell);
    classes.forEach((name, c) => {
      if (c % every) return;
      context.textAlign = "right";
      context.fillText(fitted(name, left - 8, 11), left - 6, top + (c + 0.5) * cell);
      context.save();
      context.translate(left + (c + 0.5) * cell, top - 6);
      context.textAlign = flat ? "center" : "left";
      if (flat) context.translate(0, -4);
      else context.rotate(-Math.PI / 2);
      context.fillText(fitted(name, flat ? cell : top - 8, 11), 0, 0);
      context.restore();
    });
    mark(null);
  });

  function mark(found, point = null) {
    at = found;
    cursor.hidden = !at;
    if (!at) return;
    const [i, j] = at;
    cursor.style.left = `${left + j * cell}px`;
    cursor.style.top = `${top + i * cell}px`;
    cursor.style.width = cursor.style.height = `${cell}px`;
    const value = column.at(i * n + j);
    const first = i === j ? `class ${classes[i]}` : `classes ${classes[i]} and ${classes[j]}`;
    showTip(...point, [first, [i === j ? "units that represent only this class" : words, exact(value)]]);
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const j = Math.floor((event.clientX - box.left - left) / cell);
    const i = Math.floor((event.clientY - box.top - top) / cell);
    if (i >= 0 && j >= 0 && i < n && j < n) mark([i, j], [event.clientX, event.clientY]);
    else {
      mark(null);
      hideTip();
    }
  });
  const leave = () => {
    mark(null);
    hideTip();
  };
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [i, j] = (at ?? [0, 0]).map((old, axis) => Math.max(0, Math.min(n - 1, old + (at ? move[axis] : 0))));
    const box = canvas.getBoundingClientRect();
    mark([i, j], [box.left + left + (j + 1) * cell, box.top + top + (i + 1) * cell]);
  });
}

export function heatMaps(container, data, graph) {
  if (!data.has(`graph/${graph.index}/shared`)) return; // left out, as the words below the section say
  const [unique, shared] = ["unique", "shared"].map((name) => data.column(`graph/${graph.index}/${name}`));
  const most = shared.values.reduce((a, b) => Math.max(a, b), 0);
  const none = unique.values.every((value) => !value) ? " Here every unit represents at least three classes." : "";
  const kinds = [
    [
      unique,
      "Units that represent only these classes",
      "On the diagonal units of this class and no other; elsewhere of these two classes and no third." + none,
      "units that represent these two and no third",
    ],
    [
      shared,
      "Shared units",
      "Units that represent both classes, whoever else they represent. The diagonal is the same as beside it.",
      "units that represent both",
    ],
  ];
  const two = container.appendChild(h("div", { class: "panels two" }));
  for (const [column, name, note, words] of kinds) {
    const place = h("div", { class: "drawing cells-place" });
    two.append(figure(name, note, place));
    heatMap(place, data, column, most, `${name}, classes by classes, ${graph.name}`, words);
  }
  const bar = h("canvas", { class: "ramp" });
  container.append(
    h(
      "div",
      { class: "legend" },
      h("span", null, "0"),
      bar,
      h("span", null, `${counted(most, "unit")}; at most ${count(graph.top)} ${graph.top === 1 ? "represents" : "represent"} a class`),
    ),
  );
  const colour = () => legend(bar, sequential());
  responsive(bar, colour);
}

export function pairs(container, data, graph) {
  if (!graph.pairs.length) return;
  const rows = graph.pairs.map((pair) =>
    h(
      "tr",
      null,
      h("th", { scope: "row", class: "text" }, `${data.classes[pair.first]} and ${data.classes[pair.second]}`),
      h("td", { "data-value": pair.shared }, `${count(pair.shared)} of ${count(pair.size)}`),
      h("td", { "data-value": pair.unique }, count(pair.unique)),
      h("td", { "data-value": pair.expected }, pair.expected.toFixed(1)),
    ),
  );
  const heads = h(
    "tr",
    null,
    head("Classes", null, { class: "text" }),
    head("Shared", ["Shared", "Units that represent both classes, of those that represent the class with fewer of them."]),
    head("Only these two", ["Only these two", "Of the shared units those that represent no third class."]),
    head("By lot", ["By lot", "Units that sets of these sizes, drawn by lot from the layer's live units, would share."]),
  );
  const note = `The pairs that share the largest part of their representative units, of ${count(graph.live)} live units of ${graph.name}.`;
  container.append(figure("Class pairs most entangled", note, table("Class pairs most entangled", heads, rows, "pairs")));
}

const INDEPENDENT = [
  "If independent",
  "The modularity with the same sets of units and the same rates, if units fired independently of each other within each class. What is above it comes from firing together. Empty for what is found anew on every graph.",
];

export function modularities(container, graph) {
  const blocks = [graph.modularity, graph.modularity_union].filter(Boolean);
  const cells = (row) => [
    h("td", { "data-value": row.value }, fixed(row.value, 4)),
    h("td", { "data-value": row.spread }, row.spread === null ? "" : `± ${fixed(row.spread, 4)}`),
    h("td", { "data-value": row.independent }, row.independent === null ? "" : fixed(row.independent, 4)),
  ];
  const rows = graph.modularity.map((row, i) =>
    h(
      "tr",
      null,
      h("th", { scope: "row", class: "text" }, row.of, row.source ? h("small", null, row.source) : null),
      blocks.map((block) => cells(block[i])),
    ),
  );
  const columns = () => [
    head("Value", ["Modularity", "Share of the edges' weight inside the parts, above what is expected from the vertices' strengths."]),
    head("Over seeds", ["Over seeds", "Standard deviation over five seeds, for what depends on a random start."]),
    head("If independent", INDEPENDENT),
  ];
  const group = (text) => h("th", { colspan: 3, scope: "colgroup", class: "block" }, text);
  const heads = [
    blocks.length > 1
      ? h("tr", null, h("td"), group("Pairs within each class's own set"), group("All pairs of representative units"))
      : null,
    h("tr", null, head("Of", null, { class: "text" }), blocks.map(columns)),
  ].filter(Boolean);
  const note =
    "How much more of the edges' weight lies inside the parts than chance would put there; 0 is chance." +
    (blocks.length > 1
      ? " At the left only pairs of one class's units are counted, as drawn above. At the right all pairs of representative units counted, in every class: there the sets alone make little, and what remains is firing."
      : "");
  container.append(figure("Modularity", note, table("Modularity", heads, rows, "modularity")));
}

export function communities(container, data, graph) {
  const { count: found, mean_size: size, agreement, purity, stability, by_class: counts, sizes } = graph.communities;
  const many = found === 1 ? "one community of" : `${count(found)} communities of on average`;
  const words = [
    `Louvain finds ${many} ${fixed(size, 1, true)} units; they agree with the classes at ${fixed(agreement, 3)} (adjusted mutual information: 1 = same, 0 = chance), purity ${fixed(purity, 3)}`,
    stability === null ? "." : `; over seeds stability ${fixed(stability, 3)}.`,
  ];
  const content = [h("p", { class: "lead communities" }, words.join(""))];
  const { classes } = data;
  if (found && classes.length <= MOST_ROWS && found <= MOST_ROWS) {
    const heads = h(
      "tr",
      null,
      head("Community", null, { class: "text" }),
      classes.map((name) => head(name)),
      head("Units"),
    );
    const rows = counts.map((row, k) =>
      h(
        "tr",
        null,
        h("th", { scope: "row", class: "text" }, String(k)),
        row.map((value, c) => {
          const cell = h("td", { class: value ? "shade" : "absent-cell", "data-value": value }, value ? count(value) : "·");
          cell.style.setProperty("--share", `${sizes[k] ? (100 * value) / sizes[k] : 0}%`);
          return tipped(cell, [`community ${k}, class ${classes[c]}`, ["units", exact(value)]]);
        }),
        h("td", { "data-value": sizes[k] }, h("b", null, count(sizes[k]))),
      ),
    );
    content.push(table("Communities by classes", heads, rows, "matrix communities"));
  }
  const note =
    "Purity is the share of units whose class is the most frequent one of their community, which small communities reach by themselves; " +
    "stability is how far partitions of different seeds agree. A unit counts for the class with its largest mean.";
  container.append(figure("Communities and classes", note, ...content));
}

// Softmax entropy by layer and class, and the same with the scale of activations removed (002, figures 11 to 15).

import { figure, fitted, h, picture, s, tipped } from "../dom.js";
import { layerAxis, layerWords, leftAxis, leftRoom } from "../marks.js";
import { count, exact, extent, linear, number } from "../numbers.js";

export const title = "Softmax entropy";
export const says = ["softmax"];

const KINDS = [
  ["mean_first", "softmax_entropy", "Of mean activations, as in paper 002"],
  ["scale_free", "softmax_entropy_scale_free", "Scale removed: activations divided by the layer's mean"],
];

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

function lines(place, data, rows, [low, high], label) {
  const { layers, classes } = data;
  const means = data.meta.summary.map((row) => row[label]);
  picture(place, `${label} by layer and class`, 300, (root, width, height) => {
    const [top, bottom] = [26, height - 26];
    const left = leftRoom(low, high, 5);
    const right = width - 52;
    const y = linear(low, high, bottom, top);
    leftAxis(root, y, [low, high], { left, right, top, title: "share of the largest possible entropy", wanted: 5 });
    const { band, middle } = layerAxis(root, layers, { left, right, y: bottom });
    const path = (values) => {
      let pen = "M";
      return values
        .map((v, i) =>
          v === null ? ((pen = "M"), "") : `${[pen, (pen = "L")][0]}${middle(i).toFixed(1)},${y(v).toFixed(1)}`,
        )
        .join("");
    };
    const alone = layers.length === 1;
    classes.forEach((name, c) => {
      const values = rows.map((row) => row[c]);
      if (values.every((value) => value === null)) return;
      const group = s("g", { class: "class-line" });
      if (alone)
        group.append(
          s("line", {
            x1: middle(0) - band * 0.2,
            x2: middle(0) + band * 0.2,
            y1: y(values[0]),
            y2: y(values[0]),
            class: "one",
          }),
        );
      else group.append(s("path", { d: path(values), class: "one" }));
      if (classes.length <= 20)
        values.forEach(
          (v, i) =>
            v !== null &&
            layers.length <= 12 &&
            group.append(s("circle", { cx: middle(i), cy: y(v), r: 2.2, class: "dot" })),
        );
      group.append(
        s("path", {
          d: alone ? `M${middle(0) - band * 0.2},${y(values[0])}h${band * 0.4}` : path(values),
          class: "reach",
        }),
      );
      root.append(tipped(group, [`class ${name}`, ...pairs(layers, values)]));
    });
    if (alone)
      root.append(
        s("line", {
          x1: middle(0) - band * 0.26,
          x2: middle(0) + band * 0.26,
          y1: y(means[0]),
          y2: y(means[0]),
          class: "mean",
        }),
      );
    else root.append(s("path", { d: path(means), class: "mean" }));
    const last = means.length - 1;
    means.forEach((value, i) => {
      if (value === null) return;
      const dot = s("circle", { cx: middle(i), cy: y(value), r: layers.length > 12 ? 2.5 : 4, class: "mean-dot" });
      root.append(tipped(dot, [layers[i].name, ["mean over classes", exact(value)]]));
    });
    if (means[last] !== null)
      root.append(
        s(
          "text",
          { x: (alone ? middle(0) + band * 0.26 : middle(last)) + 9, y: y(means[last]) + 4, class: "tick strong" },
          number(means[last]),
        ),
      );
    ends(root, rows[last], classes, (alone ? middle(0) + band * 0.2 : middle(last)) + 9, y, means[last]);
  });
}

/** Names the highest and the lowest class at the end of the lines, where there is room. */
function ends(root, values, classes, x, y, taken) {
  const known = values
    .map((value, c) => [value, c])
    .filter(([value]) => value !== null)
    .sort((a, b) => a[0] - b[0]);
  if (known.length < 2) return;
  for (const [value, c] of [known[0], known[known.length - 1]]) {
    if (Math.abs(y(value) - y(taken)) < 13) continue;
    const name = classes[c].length < 3 ? `class ${classes[c]}` : classes[c];
    root.append(s("text", { x, y: y(value) + 4, class: "tick" }, fitted(name, 44, 11)));
  }
}

function pairs(layers, values) {
  const shown = layers.length <= 10 ? layers.map((_, i) => i) : [0, Math.floor(layers.length / 2), layers.length - 1];
  return shown.map((i) => [layers[i].name, exact(values[i])]);
}

export function draw(container, data) {
  const { layers, classes, meta } = data;
  if (!data.has("entropy/mean_first")) {
    container.append(h("p", { class: "absent" }, "There is no layer."));
    return;
  }
  const empty = classes.filter((_, c) => !meta.classes.counts[c]);
  const words = [
    "For each class: the mean activation of every unit over the class's samples, then a softmax over units, then the entropy, divided by its largest possible value. 1 means that all units are alike for the class.",
    "A softmax sees scale: a layer with larger activations has lower entropy by that alone. The second picture has activations divided by the layer's mean first; only what falls there too is a change of pattern.",
    `Thin lines are the ${count(classes.length)} classes, the bold one is their mean; ${count(meta.overview.samples)} samples.`,
    layers.length > 12 ? `Horizontally: ${layerWords(layers)}.` : null,
    layers.length === 1 ? "With one layer there is no change with depth to speak of." : null,
    empty.length
      ? `Classes without samples have no line: ${empty.slice(0, 5).join(", ")}${empty.length > 5 ? ", …" : ""}.`
      : null,
  ];
  container.append(h("p", { class: "note" }, words.filter(Boolean).join(" ")));
  const series = KINDS.map(([key]) => layers.map((_, i) => data.column(`entropy/${key}`).row(i)));
  const domain = extent(series.flat(2), { air: 0.06, least: 0, most: 1 });
  domain[1] = Math.min(domain[1], Math.max(1, ...series.flat(2)));
  const panels = container.appendChild(h("div", { class: layers.length > 12 ? "panels wide" : "panels two" }));
  KINDS.forEach(([, name, words], k) => {
    const ends = [0, layers.length - 1].map((i) => mean(series[k][i]));
    const change = layers.length > 1 ? `mean ${number(ends[0])} → ${number(ends[1])}` : `mean ${number(ends[0])}`;
    const place = h("div", { class: "drawing" });
    panels.append(figure(words, change, place));
    lines(place, data, series[k], domain, name);
  });
}

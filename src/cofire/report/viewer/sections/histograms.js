// Histograms of one unit: over all samples, and over the samples of each class (002, figures 8 to 10).

import { figure, fitted, h, picture, s, tipped } from "../dom.js";
import { bottomAxis, leftAxis, leftRoom } from "../marks.js";
import { count, exact, extent, linear, number, percent } from "../numbers.js";

/** Bars of counts between two ends, with what they hold on hover. */
function bars(root, counts, low, high, x, y, base, shade, tip) {
  const width = (high - low) / counts.length;
  counts.forEach((value, k) => {
    const [x0, x1] = [x(low + k * width), x(low + (k + 1) * width)];
    const group = s("g", { class: "bar" });
    if (value > 0)
      group.append(
        s("rect", {
          x: x0,
          y: y(value),
          width: Math.max(x1 - x0 - (x1 - x0 > 4 ? 1 : 0), 0.7),
          height: Math.max(base - y(value), 0.7),
          class: shade,
        }),
      );
    if (tip) {
      group.append(s("rect", { x: x0, y: y.top, width: Math.max(x1 - x0, 0.7), height: base - y.top, class: "hit" }));
      tipped(group, tip(value, low + k * width, low + (k + 1) * width));
    }
    root.append(group);
  });
}

/** The histogram over all samples, or why there is none. */
export function histogram(node, data, unit) {
  const at = data.has(`histogram/${unit.layer}`) ? data.place("histogram_units", unit.layer, unit.unit) : -1;
  if (at < 0) {
    const why = data.has(`histogram/${unit.layer}`)
      ? "was left out for this unit, to keep the page small"
      : "is not here: these statistics were recorded without histograms";
    node.append(h("p", { class: "absent" }, `The histogram ${why}.`));
    return;
  }
  const column = data.column(`histogram/${unit.layer}`);
  const counts = column.row(at);
  const [low, high, zeros] = ["low", "high", "zeros"].map(unit.value);
  const total = unit.about.samples;
  const filled = counts.some((value) => value > 0);
  const how = unit.about.histograms === "sketch" ? " from the sketch, so counts are rounded" : "";
  const words =
    `${count(total - zeros)} of ${count(total)} samples have a value other than zero; they are in ${count(counts.length)} bins${how}. ` +
    `${zeros ? `${count(zeros)} (${percent(zeros / total)}) are exactly zero and are in no bin.` : "None is exactly zero."}`;
  const drawing = h("div", { class: "drawing" });
  node.append(figure("Its activations over all samples", words, drawing));
  if (!filled) {
    drawing.append(h("p", { class: "absent" }, "It has no value other than zero, so there is nothing to count."));
    return;
  }
  picture(
    drawing,
    "Histogram of activations over all samples",
    data.classes.length <= 12 ? 280 : 210,
    (root, width, height) => {
      const most = Math.max(...counts);
      const [top, bottom] = [26, height - 40];
      const left = leftRoom(0, most);
      const y = linear(0, most * 1.04, bottom, top);
      y.top = top;
      const domain = high > low ? [Math.min(low, 0), Math.max(high, 0)] : extent([low, 0]);
      const x = linear(domain[0], domain[1], left, width - 12);
      leftAxis(root, y, [0, most * 1.04], { left, right: width, top, title: "samples" });
      bars(
        root,
        counts,
        low,
        high > low ? high : low + (domain[1] - domain[0]) / 60,
        x,
        y,
        bottom,
        "fill-second",
        (value, from, to) => [`activation ${number(from)} to ${number(to)}`, ["samples", exact(value)]],
      );
      bottomAxis(root, x, domain, {
        y: bottom,
        title: "activation",
        x: (left + width) / 2,
        wanted: Math.floor(width / 90),
      });
    },
  );
}

/** A histogram for each class on one axis, or why there is none. */
export function byClass(node, data, unit) {
  const { classes, meta } = data;
  const held = data.has(`by_class_units/${unit.layer}`);
  const at = held ? data.place("by_class_units", unit.layer, unit.unit) : -1;
  if (at < 0) {
    const sketch =
      unit.about.histograms === "sketch"
        ? "the sketch keeps none"
        : "they were not recorded, or there are too many classes for the memory set aside";
    const why = held
      ? "To keep the page small, only the most informative units of each layer have histograms by class, and this is not one of them."
      : `There are no histograms by class: ${sketch}.`;
    node.append(h("p", { class: "absent" }, why));
    return;
  }
  const column = data.column(`by_class/${unit.layer}`);
  const [, , bins] = column.shape;
  const part = (name) => data.column(`by_class_${name}/${unit.layer}`).row(at);
  const [zeros, lows, highs] = [part("zeros"), part("low"), part("high")];
  const domain = extent([0, ...lows, ...highs], { air: 0 });
  const words = `Values other than zero, in ${count(bins)} bins over each class's own range, all on one axis of activation. Each shape is as high as its largest bin; the number beside it says how many samples it holds.`;
  const grid = h("div", { class: "multiples" });
  node.append(figure("Its activations for each class", words, grid));
  const shown = Math.min(classes.length, 40);
  for (let c = 0; c < shown; c++) {
    const counts = Array.from({ length: bins }, (_, k) => column.at((at * classes.length + c) * bins + k));
    const total = meta.classes.counts[c];
    const inside = total - zeros[c];
    const cell = h("div", { class: "multiple" });
    grid.append(cell);
    picture(cell, `Activations for class ${classes[c]}`, 84, (root, width) => {
      const most = Math.max(...counts, 1);
      const bottom = 66;
      const y = linear(0, most, bottom, 22);
      y.top = 18;
      const x = linear(domain[0], domain[1], 14, width - 14);
      const note = total ? `${count(inside)} of ${count(total)}` : "no sample";
      root.append(s("text", { x: width - 6, y: 12, class: "tick end" }, note));
      root.append(s("text", { x: 6, y: 12, class: "tick strong" }, fitted(classes[c], width - 84)));
      root.append(s("line", { x1: 6, x2: width - 6, y1: bottom + 0.5, y2: bottom + 0.5, class: "zero" }));
      const [low, high] = [lows[c], highs[c]];
      if (inside > 0 && low !== null)
        bars(
          root,
          counts,
          low,
          high > low ? high : low + (domain[1] - domain[0]) / 60,
          x,
          y,
          bottom,
          c === unit.value("preferred_class") ? "fill-accent" : "fill-second",
          null,
        );
      bottomAxis(root, x, domain, { y: bottom, wanted: 2 });
      const lines = [
        `class ${classes[c]}`,
        ["samples", exact(total)],
        ["exactly zero", exact(zeros[c])],
        ["smallest other value", exact(low)],
        ["largest", exact(high)],
        ["largest bin, samples", exact(Math.max(...counts))],
      ];
      root.append(tipped(s("rect", { x: 0, y: 0, width, height: 84, class: "hit" }), lines));
    });
  }
  if (shown < classes.length)
    node.append(h("p", { class: "left-out" }, `The first ${shown} of ${count(classes.length)} classes are drawn.`));
}

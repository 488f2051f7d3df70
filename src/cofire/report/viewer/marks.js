// Axes and bars that several sections share.

import { fitted, picture, s, textWidth, tipped } from "./dom.js";
import { exact, extent, linear, tickText, ticks } from "./numbers.js";

/** A value axis at the left: faint lines across, numbers beside them, and what they count above. */
export function leftAxis(root, scale, [low, high], { left, right, top, title, wanted = 4 }) {
  const marks = ticks(low, high, wanted);
  const texts = tickText(marks);
  marks.forEach((mark, i) => {
    const y = Math.round(scale(mark)) + 0.5;
    root.append(s("line", { x1: left, x2: right, y1: y, y2: y, class: mark === 0 ? "zero" : "grid" }));
    root.append(s("text", { x: left - 6, y: y + 4, class: "tick end" }, texts[i]));
  });
  if (title) root.append(s("text", { x: 0, y: top - 10, class: "axis" }, title));
}

/** The width that the numbers of a left axis need. */
export function leftRoom(low, high, wanted = 4) {
  return Math.ceil(Math.max(...tickText(ticks(low, high, wanted)).map((text) => textWidth(text, 11)))) + 10;
}

/** A value axis at the bottom. */
export function bottomAxis(root, scale, [low, high], { y, title, x, wanted = 5, lines = null }) {
  const marks = ticks(low, high, wanted);
  const texts = tickText(marks);
  marks.forEach((mark, i) => {
    const at = Math.round(scale(mark)) + 0.5;
    if (lines)
      root.append(s("line", { x1: at, x2: at, y1: lines[0], y2: lines[1], class: mark === 0 ? "zero" : "grid" }));
    else root.append(s("line", { x1: at, x2: at, y1: y, y2: y + 4, class: "zero" }));
    root.append(s("text", { x: at, y: y + 16, class: "tick middle" }, texts[i]));
  });
  if (title) root.append(s("text", { x, y: y + 32, class: "axis middle" }, title));
}

/** Places for layers, side by side: names where they fit, else numbers, thinned. Gives the middle of each band. */
export function layerAxis(root, layers, { left, right, y }) {
  const band = (right - left) / layers.length;
  const middle = (i) => left + (i + 0.5) * band;
  const named = layers.length <= 12 && band >= 44;
  const step = named ? 1 : ([1, 2, 5, 10, 20, 50, 100, 200].find((n) => n * band >= 26) ?? layers.length);
  layers.forEach((layer, i) => {
    if (!named && (i + 1) % step && !(i === 0 && step >= 5)) return;
    const label = named ? fitted(layer.name, band - 6, 11) : String(i + 1);
    const text = s("text", { x: middle(i), y: y + 16, class: "tick middle" }, label);
    root.append(tipped(text, [layer.name, `layer ${i + 1} of ${layers.length}`]));
  });
  return { band, middle, named };
}

/** What a layer axis of numbers means. */
export function layerWords(layers) {
  return layers.length > 12
    ? "layers by number, in the order of the forward pass"
    : "layers in the order of the forward pass";
}

/** Horizontal bars, one per class, in panels that share the class names. A panel: { title, values, domain, unit, colour }. */
export function classBars(root, width, names, panels, { row, marked = -1, counts = null }) {
  const top = 34;
  const bottom = top + names.length * row;
  const widest = Math.max(...names.map((name) => textWidth(name, 12)));
  const labels = Math.min(Math.ceil(widest) + 12, Math.floor(width * 0.3));
  const gap = 30;
  const each = (width - labels - gap * panels.length) / panels.length;
  const every = Math.ceil(12 / row);
  names.forEach((name, c) => {
    if (c % every) return;
    const y = top + (c + 0.5) * row + 4;
    const text = s(
      "text",
      { x: labels - 8, y, class: c === marked ? "tick end strong" : "tick end" },
      fitted(name, labels - 10),
    );
    root.append(tipped(text, [name, counts ? `${counts[c]} samples` : null]));
  });
  panels.forEach((panel, p) => {
    const left = labels + p * (each + gap);
    const scale = linear(panel.domain[0], panel.domain[1], left, left + each);
    root.append(s("text", { x: left, y: 12, class: "axis strong" }, fitted(panel.title, each + gap - 6)));
    const wanted = Math.max(2, Math.floor(each / 60));
    bottomAxis(root, scale, panel.domain, { y: bottom, wanted, lines: [top - 4, bottom] });
    names.forEach((name, c) => {
      const value = panel.values[c];
      const y = top + c * row;
      const thick = Math.max(row - (row > 6 ? 4 : 1), 1);
      const group = s("g", { class: "bar" });
      if (value === null)
        group.append(s("text", { x: scale(0) + 4, y: y + row / 2 + 4, class: "tick" }, row >= 10 ? "no sample" : ""));
      else {
        const [from, to] = [scale(Math.max(Math.min(0, value), panel.domain[0])), scale(Math.max(value, 0))];
        const shade = c === marked ? "fill-accent" : "fill-second";
        group.append(
          s("rect", {
            x: from,
            y: y + (row - thick) / 2,
            width: Math.max(to - from, value ? 1 : 0),
            height: thick,
            class: shade,
          }),
        );
      }
      group.append(s("rect", { x: left, y, width: each, height: row, class: "hit" }));
      root.append(tipped(group, [`class ${name}`, [panel.unit, exact(value)]]));
    });
  });
  return bottom + 34;
}

/** Two shares of each class as a filled dot and a ring, joined. A row: { name, first, second, lines }, of which either share may be null. */
export function pairs(place, label, rows, title) {
  const domain = extent(
    rows.flatMap(({ first, second }) => [first, second]),
    { air: 0.05, least: 0, most: 1 },
  );
  domain[1] = Math.min(1, domain[1]);
  const row = 22;
  picture(place, label, rows.length * row + 52, (root, width, height) => {
    const widest = Math.max(...rows.map(({ name }) => textWidth(name, 12)));
    const left = Math.min(widest + 14, width * 0.35);
    const x = linear(domain[0], domain[1], left + 6, width - 20);
    bottomAxis(root, x, domain, {
      y: height - 46,
      wanted: Math.floor(width / 90),
      lines: [0, height - 46],
      title,
      x: (left + width) / 2,
    });
    rows.forEach(({ name, first, second, lines }, i) => {
      const y = i * row + row / 2;
      const group = s("g", { class: "bar" });
      group.append(s("text", { x: left - 8, y: y + 4, class: "tick end" }, fitted(name, left - 12)));
      if (first !== null && second !== null)
        group.append(s("line", { x1: x(first), x2: x(second), y1: y, y2: y, class: "link" }));
      if (first !== null) group.append(s("circle", { cx: x(first), cy: y, r: 4.5, class: "fill-second" }));
      if (second !== null) group.append(s("circle", { cx: x(second), cy: y, r: 4.5, class: "ring" }));
      group.append(s("rect", { x: 0, y: y - row / 2, width, height: row, class: "hit" }));
      root.append(tipped(group, lines));
    });
  });
}

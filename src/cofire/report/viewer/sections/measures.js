// How each measure is spread over the units of each layer, as violins (paper 004).

import { figure, h, picture, s, tipped } from "../dom.js";
import { layerAxis, layerWords, leftAxis, leftRoom } from "../marks.js";
import { count, exact, extent, linear, number } from "../numbers.js";

export const title = "Measures by layer";
export const says = ["information", "selectivity"];

const [LEAST, QUARTER, MEDIAN, THREE_QUARTERS, MOST, MEAN] = [0, 1, 2, 3, 4, 5];

/** The outline of one violin, mirrored about its middle. */
function violin(outline, from, to, middle, half, y) {
  const step = (to - from) / (outline.length - 1);
  const side = (sign) =>
    outline.map((share, k) => `${(middle + sign * share * half).toFixed(1)},${y(from + k * step).toFixed(1)}`);
  return `M${side(-1).join("L")}L${side(1).reverse().join("L")}Z`;
}

function panel(place, data, measure) {
  const quartiles = data.column(`quartiles/${measure.name}`);
  const outlines = data.column(`outline/${measure.name}`);
  const rows = data.layers.map((_, i) => quartiles.row(i));
  const [low, high] = extent(rows.flat(), { air: 0.03 });
  picture(place, `${measure.label} by layer`, 230, (root, width, height) => {
    const top = 26;
    const bottom = height - 26;
    const left = leftRoom(low, high);
    const y = linear(low, high, bottom, top);
    leftAxis(root, y, [low, high], { left, right: width, top, title: measure.unit });
    const { band, middle } = layerAxis(root, data.layers, { left, right: width, y: bottom });
    const half = Math.min(band * 0.44, 60);
    const medians = rows
      .map((row, i) => (row[MEDIAN] === null ? null : `${middle(i)},${y(row[MEDIAN])}`))
      .filter(Boolean);
    if (data.layers.length > 12) root.append(s("polyline", { points: medians.join(" "), class: "thread" }));
    rows.forEach((row, i) => {
      const layer = data.layers[i];
      if (row[MEDIAN] === null) {
        if (band > 60)
          root.append(
            s(
              "text",
              { x: middle(i), y: (top + bottom) / 2, class: "tick middle" },
              layer.live ? "not recorded" : "no live unit",
            ),
          );
        return;
      }
      const shape = outlines.row(i);
      const thick = Math.max(Math.min(half / 6, 5), 1.5);
      const group = s("g", { class: "violin", tabindex: data.layers.length <= 12 ? "0" : null });
      if (Math.max(...shape) > 0)
        group.append(s("path", { d: violin(shape, row[LEAST], row[MOST], middle(i), half, y), class: "body" }));
      else
        group.append(
          s("line", {
            x1: middle(i) - half / 2,
            x2: middle(i) + half / 2,
            y1: y(row[MEDIAN]),
            y2: y(row[MEDIAN]),
            class: "quartiles",
          }),
        );
      group.append(
        s("line", {
          x1: middle(i),
          x2: middle(i),
          y1: y(row[QUARTER]),
          y2: y(row[THREE_QUARTERS]),
          class: "quartiles",
          "stroke-width": thick,
        }),
      );
      group.append(s("circle", { cx: middle(i), cy: y(row[MEDIAN]), r: Math.max(thick * 0.75, 2), class: "median" }));
      group.append(s("rect", { x: middle(i) - band / 2, y: top, width: band, height: bottom - top, class: "hit" }));
      const lines = [
        layer.name,
        ["largest", exact(row[MOST])],
        ["upper quartile", exact(row[THREE_QUARTERS])],
        ["median", exact(row[MEDIAN])],
      ];
      lines.push(
        ["lower quartile", exact(row[QUARTER])],
        ["smallest", exact(row[LEAST])],
        ["mean", exact(row[MEAN])],
        `${measure.unit}; ${count(layer.live)} live units`,
      );
      root.append(tipped(group, lines));
    });
  });
}

export function draw(container, data) {
  const { layers } = data;
  const shown = data.measures.filter((measure) => data.has(`quartiles/${measure.name}`));
  const missing = data.measures.filter((measure) => measure.axes === "units" && !shown.includes(measure));
  const dead = layers.reduce((sum, layer) => sum + layer.units - layer.live, 0);
  const sketched = layers.some((layer) => layer.histograms === "sketch");
  const words = [
    "Each shape is one layer: its width at a height says how many of the layer's live units have that value, relative to its own widest place. The dot is the median, the bar spans the middle half.",
    dead
      ? `${count(dead)} ${dead === 1 ? "unit that never fires is" : "units that never fire are"} left out.`
      : "No unit had to be left out: all of them fire for some sample.",
    `Based on ${count(data.meta.overview.samples)} samples; activation entropy counts ${count(layers[0]?.bins)} bins and depends on both.`,
    sketched ? "Its histograms come from the sketch, which moves it by less than about 0.01 bits." : null,
    layers.length > 12 ? `Horizontally: ${layerWords(layers)}; hover for names.` : null,
  ];
  container.append(h("p", { class: "note" }, words.filter(Boolean).join(" ")));
  for (const measure of missing)
    container.append(
      h(
        "p",
        { class: "absent" },
        `${measure.label} is not here: it needs histograms, and these statistics were recorded without them, or no unit is live.`,
      ),
    );
  const grid = container.appendChild(h("div", { class: layers.length > 6 ? "panels wide" : "panels" }));
  for (const measure of shown) {
    const quartiles = data.column(`quartiles/${measure.name}`);
    const medians = layers.map((_, i) => quartiles.row(i)[MEDIAN]).filter((value) => value !== null);
    const ends =
      medians.length > 1 ? `${number(medians[0])} → ${number(medians[medians.length - 1])}` : number(medians[0]);
    const change = `median ${ends}${measure.unit === "bits" ? " bits" : ""}`;
    const place = h("div", { class: "drawing" });
    const node = grid.appendChild(figure(measure.label, change, place));
    const heading = node.querySelector("strong");
    heading.tabIndex = 0;
    heading.classList.add("term");
    tipped(heading, [
      measure.label,
      measure.words,
      `Large: ${measure.better}.`,
      `Unit: ${measure.unit}. Source: ${measure.source}.`,
    ]);
    panel(place, data, measure);
  }
}

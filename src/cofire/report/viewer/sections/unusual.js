// The least familiar predictions: the picture, what the model says, what it is, and which layers disagree.

import { figure, h, tipped } from "../dom.js";
import { count, counted, number } from "../numbers.js";

/** A picture of the column, one of shares of the brightest. */
function painted(column, index, label) {
  const [, channels, rows, columns] = column.shape;
  const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const area = rows * columns;
  for (let at = 0; at < area; at++) {
    const colour = [0, 1, 2].map((c) => 255 * column.at((index * channels + Math.min(c, channels - 1)) * area + at));
    image.data.set([...colour, 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
  canvas.style.setProperty("aspect-ratio", `${columns} / ${rows}`);
  return canvas;
}

/** The layers in their order, a box each, marked where its pattern suits another class than the predicted one. */
function strip(layers, row) {
  const boxes = layers.map((layer, i) => {
    const agrees = !row.disagree.includes(layer);
    const box = h("span", { class: agrees ? "agrees" : "disagrees" });
    return tipped(box, [layer, `fires most like ${row.suits[i]}: ${agrees ? "as predicted" : "not as predicted"}`]);
  });
  return h("div", { class: "layer-strip" }, boxes);
}

function card(data, seen, row, index) {
  const wrong = row.predicted !== row.true;
  const against = row.disagree.length;
  return h(
    "div",
    { class: "unusual-card" },
    painted(data.column("unusual"), index, `Sample ${row.sample}, a ${row.true}`),
    h(
      "div",
      null,
      h(
        "p",
        { class: wrong ? "verdict wrong" : "verdict" },
        h("b", null, row.predicted),
        wrong ? ", but it is " : ", rightly",
        wrong ? h("b", null, row.true) : null,
      ),
      h("p", null, "familiarity ", h("b", { "data-value": row.familiarity }, number(row.familiarity, 3))),
      h("p", null, `${against} of ${counted(seen.layers.length, "layer")} disagree${against === 1 ? "s" : ""}`),
      strip(seen.layers, row),
    ),
    tipped(h("p", { class: "why", tabindex: "0" }, row.words), [`Sample ${row.sample}`, row.words]),
  );
}

/** The cards, the least familiar first. */
export function unusual(data, seen) {
  return figure(
    "The most unusual predictions",
    `The ${seen.rows.length} of ${count(seen.samples)} whose firing looks least like the training data's; the median familiarity is ${number(seen.median, 3)}. A box for each layer, in the order of the forward pass, filled where its pattern suits another class than the predicted one best.`,
    h(
      "div",
      { class: "unusual" },
      seen.rows.map((row, index) => card(data, seen, row, index)),
    ),
  );
}

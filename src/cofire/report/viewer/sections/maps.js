// What convolutional layers look like on average, class by class (002, figures 2 and 3).

import { bytes, diverging, legend, sequential } from "../colours.js";
import { choice, h, hideTip, showTip, whenColoursChange } from "../dom.js";
import { count, exact, number } from "../numbers.js";

export const title = "Mean maps";

export function draw(container, data) {
  const { layers, classes, meta } = data;
  const held = layers.map((_, i) => i).filter((i) => data.has(`maps/${i}`));
  if (!held.length) {
    const conv = layers.some((layer) => layer.layout === "conv");
    const why = conv
      ? "These statistics were recorded without maps (maps=False), or the pictures are a single position by then."
      : "No layer here is convolutional, so no unit has a place in the picture: there are no maps to show.";
    container.append(h("p", { class: "absent" }, why), stand(layers));
    return;
  }
  const state = { layer: held.includes(data.start) ? data.start : held[0], way: "difference" };
  const note = h("p", { class: "note" });
  const tiles = h("div", { class: "maps" });
  const bar = h("canvas", { class: "ramp" });
  const [low, high] = [h("span"), h("span")];

  function paint() {
    const maps = data.column(`maps/${state.layer}`);
    const mean = data.column(`maps_mean/${state.layer}`);
    const [shown, height, width] = maps.shape;
    const layer = layers[state.layer];
    const area = height * width;
    const relative = state.way === "difference";
    const value = (c, at) => {
      const found = maps.at(c * area + at);
      return found === null ? null : relative ? found - mean.at(at) : found;
    };
    let [least, most] = [Infinity, -Infinity];
    for (let c = 0; c < shown; c++)
      for (let at = 0; at < area; at++) {
        const v = value(c, at);
        if (v !== null) [least, most] = [Math.min(least, v), Math.max(most, v)];
      }
    if (relative) [least, most] = [-Math.max(-least, most), Math.max(-least, most)];
    const colours = relative ? diverging() : sequential();
    const missing = bytes("missing");
    const nodes = Array.from({ length: shown }, (_, c) => {
      const canvas = h("canvas", {
        width,
        height,
        role: "img",
        "aria-label": `Mean map of class ${classes[c]} in ${layer.name}`,
      });
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      for (let at = 0; at < area; at++) {
        const v = value(c, at);
        const colour = v === null ? missing : colours[Math.round((255 * (v - least)) / (most - least || 1))];
        image.data.set([...colour, 255], 4 * at);
      }
      context.putImageData(image, 0, 0);
      canvas.style.setProperty("aspect-ratio", `${width} / ${height}`);
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const x = Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width));
        const y = Math.min(height - 1, Math.floor(((event.clientY - box.top) / box.height) * height));
        showTip(event.clientX, event.clientY, [
          `class ${classes[c]}`,
          `row ${y}, column ${x}`,
          ["mean activation", exact(maps.at(c * area + y * width + x))],
          ["mean over classes", exact(mean.at(y * width + x))],
        ]);
      });
      canvas.addEventListener("pointerleave", hideTip);
      return h("div", { class: "map" }, canvas, h("span", null, classes[c]));
    });
    tiles.replaceChildren(...nodes);
    legend(bar, colours);
    [low.textContent, high.textContent] = [
      number(least),
      `${number(most)} ${relative ? "activation, against the mean over classes" : "mean activation"}`,
    ];
    const full = layer.shape.slice(1).join(" x ");
    note.textContent =
      `${layer.name}: ${layer.shape[0]} channels of ${full}, averaged over channels and over each class's samples` +
      `${full === `${height} x ${width}` ? "" : `, shown as ${height} x ${width}`}. One scale for all classes. ${count(layer.samples)} samples.`;
  }

  const ways = [
    ["difference", "difference from the mean over classes"],
    ["value", "mean activation"],
  ];
  container.append(
    h(
      "div",
      { class: "controls" },
      choice(
        "Layer",
        held.map((i) => [i, layers[i].name]),
        state.layer,
        (value) => ((state.layer = Number(value)), paint()),
      ),
      choice("Show", ways, state.way, (value) => ((state.way = value), paint())),
    ),
    note,
    tiles,
    h("div", { class: "legend" }, low, bar, high),
  );
  if (meta.overview.classes > 1 && held.length < layers.length) {
    container.append(
      h(
        "p",
        { class: "note" },
        `${count(held.length)} of ${count(layers.length)} layers have maps; the others have no picture left.`,
      ),
    );
  }
  paint();
  whenColoursChange(paint);
}

/** In place of maps: which layer has units of which kind. */
function stand(layers) {
  const shown = layers
    .slice(0, 12)
    .map((layer) => h("li", null, h("b", null, layer.name), ` ${layer.layout}, ${counted(layer)}`));
  return h(
    "ul",
    { class: "plain" },
    shown,
    layers.length > 12 ? h("li", null, `and ${count(layers.length - 12)} more`) : null,
  );
}

const counted = (layer) => `${count(layer.units)} ${layer.units === 1 ? "unit" : "units"}`;

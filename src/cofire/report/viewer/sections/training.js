// Measures over the checkpoints of a training, beside its accuracy, and how far the two go together.

import { choice, figure, h } from "../dom.js";
import { number } from "../numbers.js";
import { drawing, spoken } from "./trainingdrawing.js";

export const title = "Over the training";
export const needsLayers = false;

const RELATED = [
  ["pearson", "Pearson"],
  ["spearman", "Spearman"],
  ["partial_spearman", "Spearman given the checkpoint's number"],
  ["differences", "Pearson of the changes"],
];

function related(series) {
  return h(
    "p",
    { class: "note related" },
    "With training accuracy, over all checkpoints: ",
    RELATED.map(([key, text], i) => [
      i ? "; " : "",
      `${text} `,
      h("b", { "data-value": series[key] }, number(series[key], 2)),
    ]),
    ".",
  );
}

export function draw(container, data) {
  const about = data.meta.training;
  if (!about) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "There is no training here: make the report with trajectories (trajectories= in Python, or cofire trajectory --report on the command line).",
      ),
    );
    return;
  }
  const state = { run: about.runs[0], series: null, scale: "own" };
  const lead = h("p", { class: "lead" });
  const layers = h("span", { class: "control-place" });
  const measures = h("span", { class: "control-place" });
  const words = h("div");
  const picture = drawing(state);
  const of = (layer) => state.run.series.filter((series) => series.layer === layer);

  /** Draws a layer's series of this name, or its first one. */
  function show(layer, measure) {
    const all = of(layer);
    state.series = all.find((series) => series.measure === measure) ?? all[0];
    const { unit = "", words: meaning = "" } = about.measures[state.series.measure] ?? {};
    state.unit = unit;
    lead.textContent = state.run.words;
    layers.replaceChildren(
      choice(
        "Layer",
        [...new Set(state.run.series.map((series) => series.layer))].map((name) => [name, name]),
        layer,
        (name) => show(name, state.series.measure),
      ),
    );
    measures.replaceChildren(
      choice(
        "Measure",
        all.map((series) => [series.measure, spoken(series) + (series.baseline ? " (baseline)" : "")]),
        state.series.measure,
        (name) => show(layer, name),
      ),
    );
    words.replaceChildren(
      h("p", { class: "note" }, `${spoken(state.series)}${unit ? `, in ${unit}` : ""}: ${meaning}`),
      related(state.series),
    );
    picture.update();
  }

  function chooseRun(index) {
    const { layer, measure } = state.series;
    state.run = about.runs[index];
    const known = of(layer).length ? layer : state.run.series[0].layer;
    show(known, measure);
  }

  container.append(
    lead,
    h(
      "div",
      { class: "controls" },
      about.runs.length > 1
        ? choice(
            "Training",
            about.runs.map((run, i) => [i, run.name]),
            0,
            (index) => chooseRun(Number(index)),
          )
        : null,
      layers,
      measures,
      choice(
        "Vertically",
        [
          ["own", "each over its own range"],
          ["measured", "as measured"],
        ],
        state.scale,
        (value) => ((state.scale = value), picture.update()),
      ),
    ),
    figure(
      "A measure and accuracy, checkpoint by checkpoint",
      "Lines that go together over a training need not have to do with each other: almost everything drifts.",
      picture.node,
      words,
    ),
  );
  const [layer, measure] = about.first;
  show(of(layer).some((series) => series.measure === measure) ? layer : state.run.series[0].layer, measure);
  picture.start();
}

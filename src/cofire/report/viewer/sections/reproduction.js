// How these numbers came about, how to get them again, and what every word means.

import { h } from "../dom.js";
import { count, counted } from "../numbers.js";

export const title = "Reproduction";
export const needsLayers = false;

function rows(data) {
  const { reproduction: made, overview } = data.meta;
  const digest = (entry) => (entry.digest ? h("code", null, entry.digest) : "not known");
  const named = (entry) => [entry.name, entry.split].filter(Boolean).join(", ") || "not named";
  const choices = Object.entries(made.choices).map(
    ([key, value]) => `${key.replaceAll("_", " ")} ${value === true ? "yes" : value === false ? "no" : value}`,
  );
  const versions = Object.entries(made.versions).map(([name, version]) => `${name} ${version}`);
  return [
    ["Command", made.command ? h("code", { class: "line" }, made.command) : "not given"],
    ["Seed", made.seed ?? "not given"],
    ["Model", named(made.model)],
    ["Digest of its weights", digest(made.model)],
    ["Data", `${named(made.data)}: ${counted(overview.samples, "sample")}`],
    ["Digest of the data", digest(made.data)],
    ...(data.meta.carry
      ? [
          ["Test data", `${named(made.test_data)}: ${counted(overview.test_samples, "sample")}`],
          ["Digest of the test data", digest(made.test_data)],
        ]
      : []),
    ["Recorded with", versions.join(", ") || "not known"],
    ["Report made with", `cofire ${made.report_version}${made.created ? `, ${made.created}` : ""}`],
    ["Machine", `${made.machine.platform}, ${counted(made.machine.processors, "processor")}`],
    ["Choices", choices.join(", ")],
    ["A unit fires above", made.thresholds.join(" or ")],
    ["Histograms", made.histograms ?? "not known"],
  ];
}

const CODE = `import cofire
stats = cofire.load("stats.safetensors")  # the file that stats.save() wrote
print(cofire.summary(stats))`;

function meanings(data) {
  const { measures, columns } = data.meta.glossary;
  const entry = (name, unit, words, rest) =>
    h(
      "div",
      null,
      h("dt", null, name, " ", h("small", null, unit)),
      h("dd", null, words, rest ? h("small", null, ` ${rest}`) : null),
    );
  const names = ["firing_rate", "mean", "std", "preferred_class", "dead", "always_on", "means", "shares", "maps", "graph", "ablation"];
  const plain = names.map((name) => columns[name]);
  return h(
    "dl",
    { class: "glossary" },
    measures.map((row) => entry(row.label, row.unit, row.words, `Large: ${row.better}. ${row.source}.`)),
    plain.map((row) => entry(row.label, row.unit, row.words)),
  );
}

export function draw(container, data) {
  const { layers } = data;
  const bins = [...new Set(layers.map((layer) => layer.bins))].join(", ");
  container.append(
    h(
      "dl",
      { class: "facts-list" },
      rows(data).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
    ),
    h("h3", null, "Load the statistics again"),
    h("pre", { tabindex: "0" }, h("code", null, CODE)),
    h("h3", null, "What the words mean"),
    h(
      "p",
      { class: "note" },
      `A unit is one output of a hidden layer, one channel of a convolution, one feature of a token. It fires on a sample when its activation, the value after the non-linearity, is above the threshold. ` +
        `The class of a sample is its true class, never the predicted one. Entropies and information are in bits. ${counted(data.meta.overview.samples, "sample")}, ${bins} bins.`,
    ),
    meanings(data),
  );
  container.append(
    h(
      "p",
      { class: "note" },
      `${count(Object.keys(data.meta.columns).length)} columns of numbers stand behind this page; the JSON file names each with its axes and step.`,
    ),
  );
}

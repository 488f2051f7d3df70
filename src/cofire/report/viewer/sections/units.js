// One unit: how often and how strongly it fires for each class (002, figures 5 to 10).

import { choice, figure, h, picture, tipped } from "../dom.js";
import { classBars } from "../marks.js";
import { count, counted, extent, number, percent } from "../numbers.js";
import { byClass, histogram } from "./histograms.js";
import * as shares from "./shares.js";

export const title = "Single units";

/** Everything known of one unit. */
function known(data, { layer, unit }) {
  const row = data.unitRow(layer, unit);
  const value = (name) => (data.has(`unit/${name}`) && row >= 0 ? data.column(`unit/${name}`).at(row) : null);
  const profile = data.place("profile_units", layer, unit);
  const part = (name) => (profile < 0 ? null : data.column(`${name}/${layer}`).row(profile));
  return { layer, unit, row, value, firing: part("firing"), means: part("means"), about: data.layers[layer] };
}

/** The place of a unit among the live units of its layer, the largest value first. */
function place(data, unit, name) {
  const column = data.column(`unit/${name}`);
  const dead = data.column("unit/dead");
  const own = column.at(unit.row);
  let [above, live] = [0, 0];
  for (let row = unit.about.first; row < unit.about.first + unit.about.shown_units; row++) {
    if (dead.at(row)) continue;
    live += 1;
    if (column.at(row) > own) above += 1;
  }
  return [above + 1, live];
}

function facts(data, unit) {
  const rows = [];
  const dead = unit.value("dead");
  const glossary = data.meta.glossary.columns;
  const add = (name, label, text, words, rank = null) =>
    rows.push(
      h(
        "tr",
        null,
        h("th", { scope: "row" }, tipped(h("span", { class: "term", tabindex: "0" }, label), [label, words])),
        h("td", { "data-value": unit.value(name) }, text),
        h("td", { class: "rank" }, rank),
      ),
    );
  add("firing_rate", "Firing rate", percent(unit.value("firing_rate")), glossary.firing_rate.words);
  for (const measure of data.measures) {
    const value = unit.value(measure.name);
    if (!data.has(`unit/${measure.name}`) || value === null) continue;
    const [above, live] = place(data, unit, measure.name);
    add(
      measure.name,
      measure.label,
      `${number(value)}${measure.unit === "bits" ? " bits" : ""}`,
      measure.words,
      dead ? null : `place ${count(above)} of ${count(live)}`,
    );
  }
  add("mean", "Mean activation", number(unit.value("mean")), glossary.mean.words);
  add("std", "Standard deviation", number(unit.value("std")), glossary.std.words);
  const preferred = unit.value("preferred_class");
  const state = dead ? "It never fires." : unit.value("always_on") ? "It fires for every sample." : null;
  return h(
    "div",
    { class: "facts" },
    h("h3", null, `Unit ${unit.unit} of ${unit.about.name}`),
    h(
      "p",
      { class: "lead" },
      [state, preferred === null ? null : `Most active for class ${data.classes[preferred]}.`]
        .filter(Boolean)
        .join(" "),
    ),
    h("table", null, h("tbody", null, rows)),
  );
}

function profiles(node, data, unit) {
  if (!unit.firing) {
    node.append(
      h(
        "p",
        { class: "absent" },
        "Values by class were left out for this unit, to keep the page small. Its measures are in the table below.",
      ),
    );
    return;
  }
  const { classes, meta } = data;
  const best = unit.value("preferred_class") ?? -1;
  const row = Math.max(4, Math.min(22, Math.floor(360 / classes.length)));
  const drawing = h("div", { class: "drawing" });
  const words = `Left: share of the class's samples for which it fires. Right: mean activation over the class's samples. ${classes.length > 1 ? "The class with the largest mean is marked." : ""}`;
  node.append(figure("What it does for each class", words, drawing));
  const panels = [
    { title: "P(fires | class), share", unit: "P(fires | class)", values: unit.firing, domain: [0, 1] },
    {
      title: "mean activation",
      unit: "mean activation",
      values: unit.means,
      domain: extent(unit.means, { zero: true }),
    },
  ];
  picture(drawing, "Firing probability and mean activation by class", classes.length * row + 70, (root, width) =>
    classBars(root, width, classes, panels, { row, marked: best, counts: meta.classes.counts }),
  );
}

export function draw(container, data) {
  const { layers } = data;
  if (!layers.length) {
    container.append(h("p", { class: "absent" }, "There is no unit."));
    return;
  }
  const information = data.column("unit/mutual_information");
  const best = (layer) => {
    const { first, shown_units: shown } = layers[layer];
    return Array.from({ length: shown }, (_, k) => first + k)
      .sort((a, b) => information.at(b) - information.at(a) || a - b)
      .slice(0, 24);
  };
  const input = h("input", {
    type: "number",
    min: 0,
    step: 1,
    inputmode: "numeric",
    "aria-label": "Unit number",
    onchange: () => go(Number(input.value)),
  });
  const top = h("select", {
    "aria-label": "Most informative units",
    onchange: () => top.value && go(Number(top.value)),
  });
  const body = h("div", { class: "unit" });
  const below = h("div");
  const go = (unit) => {
    const { layer } = data.picked;
    data.pick(layer, Math.max(0, Math.min(layers[layer].units - 1, Math.round(unit) || 0)));
  };
  const start = (layer) => data.pick(layer, data.unitAt(best(layer)[0] ?? layers[layer].first).unit);
  const picker = choice(
    "Layer",
    layers.map((layer, i) => [i, layer.name]),
    data.start,
    (value) => start(Number(value)),
  );
  container.append(
    h(
      "div",
      { class: "controls" },
      picker,
      h(
        "label",
        { class: "control" },
        h("span", null, "Unit"),
        h(
          "span",
          { class: "stepper" },
          h("button", { type: "button", "aria-label": "Previous unit", onclick: () => go(data.picked.unit - 1) }, "‹"),
          input,
          h("button", { type: "button", "aria-label": "Next unit", onclick: () => go(data.picked.unit + 1) }, "›"),
        ),
      ),
      h("label", { class: "control" }, h("span", null, "Most informative units"), top),
    ),
    body,
    below,
  );
  let listed = -1;
  data.onPick((picked) => {
    const unit = known(data, picked);
    picker.querySelector("select").value = picked.layer;
    input.max = layers[picked.layer].units - 1;
    input.value = picked.unit;
    if (listed !== picked.layer) {
      const options = best(picked.layer).map((row) =>
        h("option", { value: data.unitAt(row).unit }, `${data.unitAt(row).unit} (${number(information.at(row))} bits)`),
      );
      top.replaceChildren(h("option", { value: "" }, "choose"), ...options);
      listed = picked.layer;
    }
    top.value = [...top.options].some((option) => option.value === String(picked.unit)) ? picked.unit : "";
    const left = h("div", { class: "column" });
    const right = h("div", { class: "column" });
    body.replaceChildren(left, right);
    if (unit.row < 0)
      left.append(h("p", { class: "absent" }, `Unit ${picked.unit} was left out, to keep the page small.`));
    else {
      left.append(facts(data, unit));
      histogram(left, data, unit);
      profiles(right, data, unit);
    }
    below.replaceChildren();
    if (unit.row >= 0) byClass(data.classes.length <= 12 ? right : below, data, unit);
    shares.draw(below, data, unit);
  });
  start(data.start);
  container.append(
    h(
      "p",
      { class: "note" },
      `Based on ${counted(layers[0].samples, "sample")}. Activations are values after the non-linearity, in the model's own units.`,
    ),
  );
}

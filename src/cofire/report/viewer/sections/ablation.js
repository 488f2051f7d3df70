// What removing units does to accuracy: in the order of measures, low or high values first, beside a random order (004).

import { choice, figure, h, tipped, whenColoursChange } from "../dom.js";
import { count, counted, exact, percent } from "../numbers.js";
import { colouring, groupsOf, measureWords, nearestStep, wholeAccuracy } from "./ablationdata.js";
import { drawing, sign } from "./ablationdrawing.js";

export const title = "Ablation";
export const says = ["ablation"];
export const needsLayers = false;

const MANY = 14;
const [BEST, WORST] = [6, 2];
const SHARES = [0.25, 0.5, 0.75];
const FILLS = { mean: "their mean", zero: "zero" };
const ORDERS = { ascending: "low first", descending: "high first" };

/** "a, b and c". */
function listed(parts) {
  return parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts[parts.length - 1]}` : parts.join("");
}

/** What is seen, in words. */
function meaning({ group, curves, fill }) {
  const random = curves.find((curve) => curve.order === "random");
  const samples = [...new Set(curves.map((curve) => curve.samples))].sort((a, b) => a - b);
  const held =
    fill === "mean"
      ? "A removed unit is held at its mean over the recorded samples, so that it no longer tells samples apart but still gives the next layer what it gives on average."
      : "A removed unit is held at zero, which also takes away what it gives the next layer on average.";
  return [
    `Units of ${group.layers.length === 1 ? group.name : `${listed(group.layers)} together`} are removed one after the other, none of them put back and nothing trained again, and accuracy is measured as they go, on ${listed(samples.map(count))} samples.`,
    held,
    "“Low values first” removes the units with the smallest value of a measure before the others, “high values first” those with the largest: where a measure says what a unit is worth, the first stays up for long and the second falls at once.",
    random?.runs > 1
      ? `Grey is chance: the mean of ${count(random.runs)} random orders, its band from the least to the most accurate of them at each step.`
      : random
        ? "Grey is one random order."
        : "There is no random order here to compare with.",
  ].join(" ");
}

/** What keeps curves from being compared; null if nothing does. */
function caution(curves) {
  const differ = (part) => new Set(curves.map(part)).size > 1;
  if (curves.length > 1 && (curves.some((curve) => curve.removed[0]) || wholeAccuracy(curves) === null))
    return "These curves do not start from the same accuracy with all units: they were not measured on the same data, or not from the first unit on.";
  if (differ((curve) => curve.removed[curve.removed.length - 1]))
    return "These curves do not end at the same number of units removed, so their mean accuracies are over different ranges.";
  return null;
}

const head = (text, lines, attributes = {}) =>
  h("th", { scope: "col", ...attributes }, lines ? tipped(h("span", { class: "term", tabindex: "0" }, text), lines) : text);

function table({ curves, group }, colour, emphasise) {
  const cell = (curve, share) => {
    const place = nearestStep(curve, share * group.units);
    if (place < 0) return h("td", { class: "absent-cell" }, "–");
    const value = curve.accuracy[place];
    return tipped(h("td", { "data-value": value }, percent(value)), [
      curve.name,
      ["accuracy", exact(value)],
      `measured with ${count(curve.removed[place])} of ${counted(group.units, "unit")} removed`,
    ]);
  };
  const row = (curve) =>
    h(
      "tr",
      {
        class: curve.order === "random" ? "by-chance" : null,
        onpointerenter: () => emphasise(curve.key),
        onpointerleave: () => emphasise(null),
      },
      h(
        "th",
        { scope: "row", class: "text" },
        sign(curve, colour(curve)),
        curve.name,
        curve.order === "random" ? h("small", null, ` ${counted(curve.runs, "run")}`) : null,
      ),
      h("td", { "data-value": curve.area }, percent(curve.area)),
      h(
        "td",
        { "data-value": curve.removable },
        curve.removable === null
          ? "–"
          : [count(curve.removable), h("small", null, ` ${percent(curve.removable / group.units, 0)}`)],
      ),
      SHARES.map((share) => cell(curve, share)),
    );
  const heads = h(
    "tr",
    null,
    head("Order", null, { class: "text" }),
    head("Mean accuracy", [
      "Mean accuracy",
      "Over all shares removed, from none to the last step: the area under the curve by trapezoids. The larger, the longer accuracy lasts.",
    ]),
    head("Can go at one point", [
      "Can go at one point",
      "Units removed before accuracy first falls by more than one point (0.01) below its start, by the steps measured; beside it their share of all units.",
    ]),
    SHARES.map((share) =>
      head(`${100 * share} % removed`, [
        `Accuracy with ${100 * share} % removed`,
        "At the measured step nearest to it.",
      ]),
    ),
  );
  return h(
    "div",
    { class: "scroll fit", tabindex: "0", role: "region", "aria-label": "Orders by mean accuracy" },
    h(
      "table",
      { class: "orders" },
      h("thead", null, heads),
      h("tbody", null, [...curves].sort((a, b) => b.area - a.area).map(row)),
    ),
  );
}

export function draw(container, data) {
  if (!data.meta.ablation.length) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "There is no ablation here: make the report with curves from cofire.ablate (curves= in Python, or cofire ablate on the command line).",
      ),
    );
    return;
  }
  const groups = groupsOf(data);
  const colour = colouring(data);
  const state = {
    group: groups[0],
    fill: groups[0].fills[0],
    curves: [],
    hidden: new Set(),
    metric: "accuracy",
    across: "share",
  };
  let touched = false;
  let buttons = new Map();
  const picture = drawing(state, colour);
  const words = h("p", { class: "note" });
  const wrong = h("p", { class: "note wrong" });
  const legend = h("div", { class: "curve-legend" });
  const said = h("p", { class: "note", role: "status" });
  const fills = h("div");
  const rows = h("div");
  const notes = h("div");

  function update() {
    const { curves, hidden } = state;
    for (const [key, button] of buttons) button.setAttribute("aria-pressed", String(!hidden.has(key)));
    const off = curves.filter((curve) => hidden.has(curve.key)).length;
    const drawn = off
      ? `${count(curves.length - off)} of ${counted(curves.length, "curve")} drawn${touched ? "" : `: the best ${BEST}, the worst ${WORST}, and chance`}.`
      : curves.length > 1
        ? `All ${count(curves.length)} curves drawn.`
        : "One curve drawn.";
    said.textContent =
      `${drawn} ` +
      "The signs in the legend switch curves on and off, its headings all of a kind; point at one, or at a row of the table, to make it stand out.";
    picture.update();
  }

  /** Shows or hides curves: all of them if any is hidden, else none. */
  function toggle(keys) {
    touched = true;
    const show = keys.some((key) => state.hidden.has(key));
    for (const key of keys) show ? state.hidden.delete(key) : state.hidden.add(key);
    update();
  }

  function button(curve) {
    const node = h(
      "button",
      {
        type: "button",
        class: "curve-toggle",
        "aria-label": curve.name,
        "aria-pressed": "true",
        onclick: () => toggle([curve.key]),
        onpointerenter: () => picture.emphasise(curve.key),
        onpointerleave: () => picture.emphasise(null),
        onfocus: () => picture.emphasise(curve.key),
        onblur: () => picture.emphasise(null),
      },
      sign(curve, colour(curve)),
    );
    buttons.set(curve.key, node);
    return tipped(node, [curve.name, ["mean accuracy", percent(curve.area)]]);
  }

  /** A row for each measure, with a button for either order; random ones last. */
  function entries() {
    const { curves } = state;
    buttons = new Map();
    const heads = Object.entries(ORDERS).map(([order, text]) => {
      const keys = curves.filter((curve) => curve.order === order).map((curve) => curve.key);
      return keys.length
        ? h("button", { type: "button", class: "link", onclick: () => toggle(keys) }, text)
        : h("span");
    });
    const parts = [h("span", { class: "axis" }, "ordered by"), ...heads];
    const named = (curve) =>
      tipped(h("span", { class: "name", tabindex: "0" }, curve.measure), [curve.measure, measureWords(data, curve.by)]);
    const sorted = curves.filter((curve) => curve.order !== "random");
    for (const row of new Set(sorted.map((curve) => curve.row))) {
      const own = sorted.filter((curve) => curve.row === row);
      const cells = Object.keys(ORDERS).map((order) => own.find((curve) => curve.order === order));
      parts.push(named(own[0]), ...cells.map((curve) => (curve ? button(curve) : h("span"))));
    }
    for (const curve of curves.filter((one) => one.order === "random")) {
      const wide = button(curve);
      wide.classList.add("both");
      parts.push(named(curve), wide);
    }
    legend.replaceChildren(...parts);
  }

  /** The signs and numbers beside the drawing. */
  function paint() {
    entries();
    rows.replaceChildren(table(state, colour, picture.emphasise));
  }

  function show() {
    const { group, fill } = state;
    state.curves = group.curves.filter((curve) => curve.fill === fill);
    if (!touched) {
      // Of many curves those that a reader looks for first: the best, the worst, and chance.
      const ranked = state.curves.filter((curve) => curve.order !== "random").sort((a, b) => b.area - a.area);
      const kept = ranked.length > MANY ? ranked.slice(BEST, -WORST) : [];
      state.hidden = new Set(kept.map((curve) => curve.key));
    }
    words.textContent = meaning(state);
    const problem = caution(state.curves);
    wrong.textContent = problem ?? "";
    wrong.hidden = !problem;
    const told = [...new Set(state.curves.flatMap((curve) => curve.notes))];
    notes.replaceChildren(...told.map((text) => h("p", { class: "note" }, text)));
    paint();
    update();
  }

  function chooseGroup(index) {
    state.group = groups[index];
    if (!state.group.fills.includes(state.fill)) state.fill = state.group.fills[0];
    offerFills();
    show();
  }

  function offerFills() {
    const { fills: offered } = state.group;
    fills.hidden = offered.length < 2;
    fills.replaceChildren(
      choice(
        "Removed units held at",
        offered.map((fill) => [fill, FILLS[fill]]),
        state.fill,
        (value) => ((state.fill = value), show()),
      ),
    );
  }

  const pick = (key) => (value) => ((state[key] = value), update());
  container.append(
    words,
    wrong,
    h(
      "div",
      { class: "controls" },
      choice(
        "Units of",
        groups.map((group, i) => [i, group.name]),
        0,
        (value) => chooseGroup(Number(value)),
      ),
      fills,
      choice(
        "Vertically",
        [
          ["accuracy", "accuracy"],
          ["loss", "loss"],
        ],
        state.metric,
        pick("metric"),
      ),
      choice(
        "Horizontally",
        [
          ["share", "share of units"],
          ["number", "number of units"],
        ],
        state.across,
        pick("across"),
      ),
    ),
    figure(
      "What is left when units go",
      "Solid lines remove low values first, dashed ones high values.",
      h("div", { class: "curves-drawn" }, picture.node, legend),
      said,
    ),
    figure("Orders, the one that keeps accuracy longest first", null, rows),
    notes,
  );
  offerFills();
  show();
  picture.start();
  whenColoursChange(() => (paint(), update()));
}

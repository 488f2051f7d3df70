// What reading the hidden layers again gains, beside the controls that say where the gain comes from.

import { choice, figure, h } from "../dom.js";
import { pairs } from "../marks.js";
import { count, exact, extent, number, percent, points } from "../numbers.js";
import { explained, head, none, ranged, table } from "../tables.js";
import { diagrams } from "./reliability.js";

export const title = "Boost";
export const needsLayers = false;

const MOST = 24;

/** A difference of accuracies with its interval. */
const gained = (row, key, domain) =>
  ranged(row.method, [row[key], row[`${key}_low`], row[`${key}_high`]], domain, 0, points, (end) => points(end, 1));

function gains(rows, about) {
  const spread = (key) => extent(rows.flatMap((row) => [row[`${key}_low`], row[`${key}_high`]]), { zero: true });
  const [gain, lead] = [spread("gain"), spread("boost_minus")];
  const heads = [
    h("th", { scope: "col", class: "text" }, "Method"),
    head("Accuracy"),
    head("Gain, points", "Accuracy less the model's, with its 95 % interval over samples."),
    head("Boost's lead, points", "The boost's accuracy less this method's, with its 95 % interval over samples."),
    head("Log-loss, nats", "Mean negative log-probability of the true class. Lower is better."),
    head(
      "Calibration error",
      "How far the largest probability is from the share of samples that it is right on, over 15 bins. Lower is better.",
    ),
    head("McNemar's p", "Of the exact test that this method and the model are right equally often."),
  ];
  const line = (row) =>
    h(
      "tr",
      { class: row.method === "boosted" ? "chosen" : null },
      h("th", { scope: "row", class: "text" }, explained(row.method, about.methods[row.method])),
      h("td", { "data-value": row.accuracy }, percent(row.accuracy, 2)),
      row.method === "model" ? none() : gained(row, "gain", gain),
      row.method === "boosted" ? none() : gained(row, "boost_minus", lead),
      h("td", { "data-value": row.log_loss }, number(row.log_loss, 4)),
      h("td", { "data-value": row.calibration_error }, percent(row.calibration_error, 2)),
      h("td", { "data-value": row.mcnemar }, number(row.mcnemar, 2)),
    );
  return table("Gains beside the controls", "gains", heads, rows.map(line));
}

function classes(rows) {
  const largest = [...rows].sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, MOST);
  const kept = rows.filter((row) => largest.includes(row));
  const drawing = h("div", { class: "drawing" });
  const cut = rows.length > MOST ? ` The ${MOST} classes that change most, of ${count(rows.length)}.` : "";
  const place = figure(
    "What changes for each class",
    `Share of the class's ${rows[0].split} samples that is classified correctly: by the model (filled) and with the boost (ring).${cut}`,
    drawing,
  );
  const start = () =>
    pairs(
      drawing,
      "Accuracy by class without and with the boost",
      kept.map((row) => ({
        name: row.class,
        first: row.accuracy,
        second: row.boosted,
        lines: [
          `class ${row.class}`,
          [`model, of ${count(row.samples)}`, exact(row.accuracy)],
          [`boosted, of ${count(row.samples)}`, exact(row.boosted)],
          ["change, points", points(row.change)],
        ],
      })),
      "share correct",
    );
  return { place, start };
}

export function draw(container, data) {
  const about = data.meta.boost;
  if (!about) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "There is no boost here: make the report with what cofire.boost gave (boost= in Python, or cofire boost --report on the command line).",
      ),
    );
    return;
  }
  const splits = [...new Set(about.rows.map((row) => row.split))].reverse();
  const note = h("span");
  const place = h("div");
  function show(split) {
    const rows = about.rows.filter((row) => row.split === split);
    note.textContent =
      `On ${count(rows[0].samples)} ${split} samples` +
      `${split === "held-out" ? ", each scored by fits without its fifth of them" : ""}. Dots are differences, lines their 95 % intervals. Hover over a method for what it tells.`;
    place.replaceChildren(gains(rows, about));
  }
  const frame = figure("The boost beside its controls", null, place);
  frame.querySelector("figcaption").append(note);
  const change = classes(about.classes);
  container.append(
    ...about.words.map((text) => h("p", { class: "lead" }, text)),
    splits.length > 1
      ? h(
          "div",
          { class: "controls" },
          choice(
            "Measured on",
            splits.map((split) => [split, `${split} samples`]),
            splits[0],
            show,
          ),
        )
      : "",
    frame,
    diagrams(about.reliability),
    change.place,
  );
  show(splits[0]);
  change.start();
}

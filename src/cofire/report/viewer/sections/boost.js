// What reading the hidden layers again gains, beside the controls that say where the gain comes from.

import { choice, figure, h, tipped } from "../dom.js";
import { interval, pairs } from "../marks.js";
import { count, exact, extent, number, percent, points } from "../numbers.js";
import { diagrams } from "./reliability.js";

export const title = "Boost";
export const needsLayers = false;

const MOST = 24;

const head = (text, lines) =>
  h("th", { scope: "col" }, lines ? tipped(h("span", { class: "term", tabindex: "0" }, text), [text, lines]) : text);

/** A difference of accuracies with its interval, drawn and written. */
function gained(row, key, domain) {
  const [value, low, high] = [row[key], row[`${key}_low`], row[`${key}_high`]];
  return tipped(
    h(
      "td",
      { "data-value": value },
      interval(value, low, high, domain, 0),
      h("span", { class: "value" }, points(value)),
      h("small", null, `${points(low, 1)} to ${points(high, 1)}`),
    ),
    [row.method, ["difference", exact(value)], ["lower end", exact(low)], ["upper end", exact(high)], "95 % interval"],
  );
}

function table(rows, about) {
  const spread = (key) => extent(rows.flatMap((row) => [row[`${key}_low`], row[`${key}_high`]]), { zero: true });
  const [gains, leads] = [spread("gain"), spread("boost_minus")];
  const heads = h(
    "tr",
    null,
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
  );
  const line = (row) =>
    h(
      "tr",
      { class: row.method === "boosted" ? "chosen" : null },
      h(
        "th",
        { scope: "row", class: "text" },
        tipped(h("span", { class: "term", tabindex: "0" }, row.method), [row.method, about.methods[row.method]]),
      ),
      h("td", { "data-value": row.accuracy }, percent(row.accuracy, 2)),
      row.method === "model" ? h("td", { class: "absent-cell" }, "–") : gained(row, "gain", gains),
      row.method === "boosted" ? h("td", { class: "absent-cell" }, "–") : gained(row, "boost_minus", leads),
      h("td", { "data-value": row.log_loss }, number(row.log_loss, 4)),
      h("td", { "data-value": row.calibration_error }, percent(row.calibration_error, 2)),
      h("td", { "data-value": row.mcnemar }, number(row.mcnemar, 2)),
    );
  return h(
    "div",
    { class: "scroll fit", tabindex: "0", role: "region", "aria-label": "Gains beside the controls" },
    h("table", { class: "gains" }, h("thead", null, heads), h("tbody", null, rows.map(line))),
  );
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
    place.replaceChildren(table(rows, about));
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

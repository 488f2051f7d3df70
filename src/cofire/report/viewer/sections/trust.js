// Whether wrong predictions can be told from right ones, what is gained by giving fewer, and the most unusual predictions.

import { figure, h, tipped } from "../dom.js";
import { interval } from "../marks.js";
import { count, counted, exact, extent, number, percent, points } from "../numbers.js";
import { riskCurves } from "./riskcurves.js";
import { unusual } from "./unusual.js";

export const title = "Trust";
export const needsLayers = false;

const head = (text, lines) =>
  h("th", { scope: "col" }, lines ? tipped(h("span", { class: "term", tabindex: "0" }, text), [text, lines]) : text);

function rows(label, kind, heads, body) {
  return h(
    "div",
    { class: "scroll fit", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: kind }, h("thead", null, h("tr", null, heads)), h("tbody", null, body)),
  );
}

/** A number with its interval, drawn and written. */
function ranged(name, value, low, high, domain, level, text) {
  return tipped(
    h(
      "td",
      { "data-value": value },
      interval(value, low, high, domain, level),
      h("span", { class: "value" }, text(value)),
      h("small", null, `${text(low)} to ${text(high)}`),
    ),
    [name, ["value", exact(value)], ["lower end", exact(low)], ["upper end", exact(high)], "95 % interval"],
  );
}

function scores({ scores: found, answer }) {
  const areas = extent([0.5, ...found.flatMap((row) => [row.low, row.high])]);
  const gains = extent(found.flatMap((row) => [row.gain_low, row.gain_high]), { zero: true });
  const plain = (value) => h("td", { "data-value": value }, number(value, 3));
  return rows(
    "Scores",
    "gains",
    [
      h("th", { scope: "col", class: "text" }, "Score"),
      head("AUROC, %", "Share of pairs of a wrong and a right prediction in which the right one has the larger score."),
      head("Gain over MSP, points", "AUROC less that of the maximum softmax probability, with its paired interval."),
      head("AUPR of wrong", "Mean precision at which a wrong prediction is found. Higher is better."),
      head("FPR at 95 %", "Share of right predictions refused when 95 % of the wrong ones are. Lower is better."),
      head("AURC", "Area under the risk-coverage curve. Lower is better."),
      head("AUGRC", "Mean share of all predictions that is given and wrong. Lower is better."),
    ],
    found.map((row) =>
      h(
        "tr",
        { class: row.score === answer ? "chosen" : null },
        h(
          "th",
          { scope: "row", class: "text" },
          tipped(h("span", { class: "term", tabindex: "0" }, row.score), [row.score, row.words]),
        ),
        ranged(row.score, row.auroc, row.low, row.high, areas, 0.5, (value) =>
          value === null ? "–" : (100 * value).toFixed(1),
        ),
        row.score === "msp"
          ? h("td", { class: "absent-cell" }, "–")
          : ranged(row.score, row.gain, row.gain_low, row.gain_high, gains, 0, (value) => points(value, 1)),
        [row.aupr_wrong, row.fpr95, row.aurc, row.augrc].map(plain),
      ),
    ),
  );
}

function thresholds({ thresholds: found, samples, answer }) {
  const other = answer === "msp" ? [] : ["msp"];
  return rows(
    "Thresholds",
    "thresholds",
    [
      head("Coverage", "Share of predictions that is given, the most trusted first."),
      head(`Given, of ${count(samples)}`),
      head("Threshold", "The score from which on a prediction is given: log-odds that it is right."),
      head("Error rate", "Share of the given predictions that is wrong, by scores of heads that had not seen the sample."),
      other.map(() => head("With MSP", "The error rate at the same coverage by the maximum softmax probability.")),
      head("Bound", "What the error rate on new samples of the same kind does not exceed, with 95 % confidence."),
    ],
    found.map((row) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, percent(row.coverage, 0)),
        h("td", { "data-value": row.samples }, count(row.samples)),
        h("td", { "data-value": row.threshold }, row.threshold === null ? "all" : number(row.threshold, 4)),
        ["risk", ...other, "bound"].map((key) => h("td", { "data-value": row[key] }, percent(row[key], 2))),
      ),
    ),
  );
}

export function draw(container, data) {
  const { trust: about, unusual: seen } = data.meta;
  if (!about && !seen) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "There is no trust here: make the report with what cofire.trust and cofire.familiarity gave (trust= and familiar= in Python, or cofire trust --report on the command line).",
      ),
    );
    return;
  }
  if (about) {
    const counts = `${counted(about.samples, "validation prediction")}, ${count(about.wrong)} of them wrong`;
    const curves = riskCurves(about);
    container.append(
      h("p", { class: "lead" }, about.words),
      figure(
        "Which score tells wrong predictions from right ones?",
        `On ${counts}. Lines are 95 % intervals. The coloured row is the score that is given.`,
        scores(about),
      ),
      figure(
        "What is left when the least trusted are not given",
        `Error rate among the predictions given; the fewer, the surer. On ${counts}.`,
        curves.node,
      ),
      figure("Thresholds", "What a coverage costs and gives.", h("div", null, thresholds(about))),
    );
    curves.start();
  }
  if (seen) container.append(unusual(data, seen));
}

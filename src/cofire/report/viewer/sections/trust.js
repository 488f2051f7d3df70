// Whether wrong predictions can be told from right ones, what is gained by giving fewer, and the most unusual predictions.

import { figure, h } from "../dom.js";
import { count, counted, extent, number, percent, points } from "../numbers.js";
import { explained, head, none, ranged, table } from "../tables.js";
import { riskCurves } from "./riskcurves.js";
import { unusual } from "./unusual.js";

export const title = "Trust";
export const needsLayers = false;

const area = (value) => (value === null ? "–" : (100 * value).toFixed(1));

function scores({ scores: found, answer }) {
  const areas = extent([0.5, ...found.flatMap((row) => [row.low, row.high])]);
  const gains = extent(found.flatMap((row) => [row.gain_low, row.gain_high]), { zero: true });
  const heads = [
    h("th", { scope: "col", class: "text" }, "Score"),
    head("AUROC, %", "Share of pairs of a wrong and a right prediction in which the right one has the larger score."),
    head("Gain over MSP, points", "AUROC less that of the maximum softmax probability, with its paired interval."),
    head("AUPR of wrong", "Mean precision at which a wrong prediction is found. Higher is better."),
    head("FPR at 95 %", "Share of right predictions refused when 95 % of the wrong ones are. Lower is better."),
    head("AURC", "Area under the risk-coverage curve. Lower is better."),
    head("AUGRC", "Mean share of all predictions that is given and wrong. Lower is better."),
  ];
  const line = (row) =>
    h(
      "tr",
      { class: row.score === answer ? "chosen" : null },
      h("th", { scope: "row", class: "text" }, explained(row.score, row.words)),
      ranged(row.score, [row.auroc, row.low, row.high], areas, 0.5, area),
      row.score === "msp"
        ? none()
        : ranged(row.score, [row.gain, row.gain_low, row.gain_high], gains, 0, (value) => points(value, 1)),
      [row.aupr_wrong, row.fpr95, row.aurc, row.augrc].map((value) => h("td", { "data-value": value }, number(value, 3))),
    );
  return table("Scores", "gains", heads, found.map(line));
}

function thresholds({ thresholds: found, samples, answer }) {
  const other = answer === "msp" ? [] : ["msp"];
  return table(
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
      figure("Thresholds", `What a coverage costs and gives. On ${counts}.`, thresholds(about)),
    );
    curves.start();
  }
  if (seen) container.append(unusual(data, seen));
}

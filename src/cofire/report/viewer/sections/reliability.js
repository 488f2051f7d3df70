// How sure predictions are and how often they are right, in bins of the largest probability, before and after the boost.

import { figure, h, picture, s, tipped } from "../dom.js";
import { bottomAxis, leftAxis } from "../marks.js";
import { count, exact, linear } from "../numbers.js";

const NAMES = { model: "Before: the model", boosted: "After: boosted" };

function diagram(rows, method) {
  const place = h("div", { class: "drawing" });
  const all = rows.reduce((sum, row) => sum + row.samples, 0);
  const frame = h("div", null, h("p", { class: "axis" }, NAMES[method]), place);
  const tall = (width) => Math.min(width, 340);
  picture(place, `Reliability: ${NAMES[method]}`, tall, (root, width, height) => {
    const [left, right, top, bottom] = [34, Math.min(width, height) - 8, 22, height - 40];
    const x = linear(0, 1, left + 4, right);
    const y = linear(0, 1, bottom, top);
    leftAxis(root, (mark) => y(mark / 100), [0, 100], { left, right, top, title: "right, %" });
    bottomAxis(root, (mark) => x(mark / 100), [0, 100], {
      y: bottom,
      x: (left + right) / 2,
      title: "mean largest probability, %",
    });
    root.append(s("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "even" }));
    for (const row of rows) {
      const at = x(row.confidence);
      const group = s(
        "g",
        { class: "bar bin", tabindex: "0" },
        s("line", { x1: at, x2: at, y1: y(row.low), y2: y(row.high), class: "reach" }),
        s("circle", {
          cx: at,
          cy: y(row.accuracy),
          r: 2.5 + 8 * Math.sqrt(row.samples / all),
          class: "fill-second dot",
        }),
      );
      root.append(
        tipped(group, [
          `${count(row.samples)} of ${count(all)} samples`,
          ["mean largest probability", exact(row.confidence)],
          ["share that is right", exact(row.accuracy)],
          ["95 % interval", `${exact(row.low)} to ${exact(row.high)}`],
        ]),
      );
    }
  });
  return frame;
}

/** Both diagrams, side by side. */
export function diagrams(reliability) {
  const before = reliability.filter((row) => row.method === "model");
  const all = before.reduce((sum, row) => sum + row.samples, 0);
  return figure(
    "Is it as sure as it is right?",
    `${count(all)} ${before[0].split} samples in 15 bins of their largest probability. The larger a dot, the more of them are in its bin; its line is the 95 % interval. On the dashed line predictions are as sure as they are right, below it too sure.`,
    h(
      "div",
      { class: "panels two" },
      Object.keys(NAMES).map((method) => diagram(reliability.filter((row) => row.method === method), method)),
    ),
  );
}

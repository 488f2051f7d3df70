// Error rate over coverage: of the score that is given, of the softmax, and of a score that knows.

import { cursor, lineSign } from "../curves.js";
import { h, picture, s, showTip } from "../dom.js";
import { bottomAxis, leftAxis, leftRoom } from "../marks.js";
import { extent, linear, percent } from "../numbers.js";

const COLOURS = { risk: "var(--accent)", msp: "var(--second)", perfect: "var(--muted)" };

const sign = (key) => lineSign(key, COLOURS[key]);

/** The drawing with its legend; `start` draws it once it is in its place. */
export function riskCurves({ curve, answer }) {
  const names = { risk: answer, msp: "msp", perfect: "a perfect score" };
  const keys = Object.keys(names).filter((key) => key !== "msp" || answer !== "msp");
  const place = h("div", { class: "drawing" });
  const legend = h(
    "div",
    { class: "legend" },
    keys.map((key) => h("span", null, sign(key), ` ${names[key]}`)),
  );

  function draw(root, width, height) {
    const [, most] = extent(
      keys.flatMap((key) => curve[key]),
      { zero: true, most: 1 },
    );
    const domain = [0, 100 * Math.min(most, 1)];
    const [top, bottom, right, left] = [26, height - 44, width - 10, leftRoom(...domain, 5)];
    const x = linear(0, 1, left + 4, right);
    const level = linear(...domain, bottom, top);
    const y = (value) => level(100 * value);
    leftAxis(root, level, domain, { left, right, top, title: "error rate, %", wanted: 5 });
    bottomAxis(root, (mark) => x(mark / 100), [0, 100], { y: bottom, x: (left + right) / 2, title: "coverage, %" });
    for (const key of [...keys].reverse()) {
      const path = curve[key].map((v, i) => `${x(curve.coverage[i]).toFixed(1)},${y(v).toFixed(1)}`).join("L");
      root.append(s("path", { d: `M${path}`, class: `line ${key}`, style: { stroke: COLOURS[key] } }));
    }
    const places = curve.coverage.map(x);
    cursor(root, { left, right, top, bottom }, places, (index, point) => {
      showTip(...point, [
        `${percent(curve.coverage[index])} given`,
        ...keys.map((key) => [names[key], percent(curve[key][index], 2), sign(key)]),
      ]);
      const marked = (key) => ({ cx: places[index], cy: y(curve[key][index]), r: 4, style: { fill: COLOURS[key] } });
      return keys.map((key) => s("circle", marked(key)));
    });
  }

  return {
    node: [place, legend],
    start: () =>
      picture(
        place,
        "Error rate over coverage; arrow keys read values",
        (width) => Math.max(260, Math.min(360, width * 0.5)),
        draw,
      ),
  };
}

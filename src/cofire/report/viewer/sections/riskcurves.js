// Error rate over coverage: of the score that is given, of the softmax, and of a score that knows.

import { h, hideTip, picture, s, showTip } from "../dom.js";
import { bottomAxis, leftAxis, leftRoom } from "../marks.js";
import { extent, linear, percent } from "../numbers.js";

const COLOURS = { risk: "var(--accent)", msp: "var(--second)", perfect: "var(--muted)" };

const sign = (key) =>
  s(
    "svg",
    { width: 26, height: 12, viewBox: "0 0 26 12", class: "curve-sign", "aria-hidden": "true" },
    s("line", { x1: 1, x2: 25, y1: 6, y2: 6, class: `line ${key}`, style: { stroke: COLOURS[key] } }),
  );

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
    const cursor = s("g", { class: "curve-cursor" });
    const area = s("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "hit" });
    root.append(cursor, area);
    let at = -1;

    function leave() {
      at = -1;
      cursor.replaceChildren();
      hideTip();
    }

    function show(index, px, py) {
      at = index;
      const across = x(curve.coverage[index]);
      cursor.replaceChildren(
        s("line", { x1: across, x2: across, y1: top, y2: bottom }),
        ...keys.map((key) => s("circle", { cx: across, cy: y(curve[key][index]), r: 4, style: { fill: COLOURS[key] } })),
      );
      showTip(px, py, [
        `${percent(curve.coverage[index])} given`,
        ...keys.map((key) => [names[key], percent(curve[key][index], 2), sign(key)]),
      ]);
    }

    area.addEventListener("pointermove", (event) => {
      const wanted = event.clientX - root.getBoundingClientRect().left;
      const far = (i) => Math.abs(x(curve.coverage[i]) - wanted);
      const index = curve.coverage.reduce((best, _, i) => (far(i) < far(best) ? i : best), 0);
      show(index, event.clientX, event.clientY);
    });
    area.addEventListener("pointerleave", leave);
    root.setAttribute("tabindex", "0");
    root.addEventListener("blur", leave);
    root.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const box = root.getBoundingClientRect();
      const next = at < 0 ? 0 : Math.max(0, Math.min(curve.coverage.length - 1, at + move));
      show(next, box.left + x(curve.coverage[next]), box.top + top);
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

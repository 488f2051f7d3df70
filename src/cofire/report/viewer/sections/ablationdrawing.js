// The drawing of ablation curves: lines over the number of units removed, and what they are at the pointer.

import { cursor, lineSign } from "../curves.js";
import { h, picture, s, showTip } from "../dom.js";
import { bottomAxis, leftAxis, leftRoom } from "../marks.js";
import { count, counted, extent, linear, number, percent } from "../numbers.js";
import { valueAt, wholeAccuracy } from "./ablationdata.js";

const FEW_STEPS = 25;

/** A short piece of a curve's line, as its sign in a legend. */
export function sign(curve, colour) {
  return lineSign(curve.order, colour, curve.order === "random" && curve.runs > 1);
}

/** What is drawn of a curve: its numbers as the axis counts them. */
export function quantity(metric) {
  return metric === "accuracy"
    ? { of: (curve) => curve.accuracy, axis: (v) => 100 * v, title: "accuracy, %", text: (v) => percent(v, 2) }
    : { of: (curve) => curve.loss, axis: (v) => v, title: "mean cross entropy, nats", text: (v) => number(v, 4) };
}

function line(curve, values, x, y) {
  let pen = "M";
  return values
    .map((v, i) =>
      v === null
        ? ((pen = "M"), "")
        : `${[pen, (pen = "L")][0]}${x(curve.removed[i]).toFixed(1)},${y(v).toFixed(1)}`,
    )
    .join("");
}

function band(curve, x, y) {
  const along = (values) => values.map((v, i) => `${x(curve.removed[i]).toFixed(1)},${y(v).toFixed(1)}`);
  return `M${along(curve.most).join("L")}L${along(curve.least).reverse().join("L")}Z`;
}

/** The drawing. `state` holds the curves, which of them are hidden, and the choices; the answer redraws and emphasises. */
export function drawing(state, colour) {
  const place = h("div", { class: "drawing" });
  let shapes = new Map();
  let again = () => {};

  function draw(root, width, height) {
    const { curves, hidden, metric, across, group } = state;
    const { of, axis, title, text } = quantity(metric);
    const seen = curves.filter((curve) => !hidden.has(curve.key));
    const banded = (curve) => metric === "accuracy" && curve.order === "random" && curve.runs > 1;
    const numbers = curves.flatMap((curve) => [of(curve), banded(curve) ? [curve.least, curve.most] : []].flat(2));
    const domain = extent(
      numbers.filter((v) => v !== null).map(axis),
      metric === "accuracy" ? { least: 0, most: 100 } : { zero: true },
    );
    if (metric === "accuracy") domain[1] = Math.min(domain[1], 100);
    const last = Math.max(...curves.map((curve) => curve.removed[curve.removed.length - 1])) || group.units;
    const [top, bottom, right] = [26, height - 44, width - 10];
    const left = leftRoom(...domain, 5);
    const x = linear(0, last, left + 4, right);
    const level = linear(...domain, bottom, top);
    const y = (value) => level(axis(value));
    leftAxis(root, level, domain, { left, right, top, title, wanted: 5 });
    const unit = across === "share" ? 100 / group.units : 1;
    bottomAxis(root, (mark) => x(mark / unit), [0, last * unit], {
      y: bottom,
      x: (left + right) / 2,
      wanted: Math.max(2, Math.min(10, Math.floor(width / 80))),
      title: across === "share" ? "units removed, %" : `units removed, of ${count(group.units)}`,
    });
    const whole = metric === "accuracy" ? wholeAccuracy(curves) : null;
    if (whole !== null && 100 * (whole - 0.01) >= domain[0]) {
      const at = y(whole - 0.01);
      root.append(
        s("line", { x1: left, x2: right, y1: at, y2: at, class: "even one-point" }),
        s("text", { x: right, y: at + 14, class: "tick end" }, `one point below ${percent(whole)}`),
      );
    }
    shapes = new Map();
    const layer = s("g", { class: "curves" });
    const first = (curve) => (curve.order === "random" ? 0 : 1);
    for (const curve of [...seen].sort((a, b) => first(a) - first(b))) {
      const node = s("g", { class: `curve ${curve.order}`, "data-curve": curve.key, style: { stroke: colour(curve) } });
      if (banded(curve)) node.append(s("path", { d: band(curve, x, y), class: "curve-band" }));
      node.append(s("path", { d: line(curve, of(curve), x, y), class: "line" }));
      if (curve.removed.length <= FEW_STEPS)
        of(curve).forEach(
          (v, i) =>
            v !== null &&
            node.append(s("circle", { cx: x(curve.removed[i]), cy: y(v), r: 2.4, style: { fill: colour(curve) } })),
        );
      layer.append(node);
      shapes.set(curve.key, node);
    }
    root.append(layer);
    if (!seen.length)
      root.append(s("text", { x: (left + right) / 2, y: (top + bottom) / 2, class: "middle" }, "No curve is switched on."));
    root.setAttribute(
      "aria-label",
      `${metric === "accuracy" ? "Accuracy" : "Loss"} of ${counted(seen.length, "curve")} over units removed, ${group.name}; arrow keys read values`,
    );

    const steps = [...new Set(seen.flatMap((curve) => curve.removed))].sort((a, b) => a - b);

    function show(index, point, height) {
      const step = steps[index];
      const found = seen
        .map((curve) => ({ curve, ...(valueAt(curve, of(curve), step) ?? { value: null }) }))
        .filter(({ value }) => value !== null)
        .sort((a, b) => (metric === "accuracy" ? b.value - a.value : a.value - b.value));
      const far = ({ value }) => Math.abs(y(value) - height);
      const near = height === null ? null : found.reduce((best, one) => (best && far(best) <= far(one) ? best : one), null);
      shapes.forEach((node, key) => node.classList.toggle("near", key === near?.curve.key));
      const room = Math.max(3, Math.floor((innerHeight - 90) / 19));
      const lines = found.slice(0, room).map(({ curve, value, measured }) => {
        const i = measured && banded(curve) ? curve.removed.indexOf(step) : -1;
        const reach = i < 0 ? "" : ` (${percent(curve.least[i])} to ${percent(curve.most[i])})`;
        return [curve.name, `${measured ? "" : "≈ "}${text(value)}${reach}`, sign(curve, colour(curve))];
      });
      const share = percent(step / group.units);
      showTip(...point, [
        `${count(step)} of ${counted(group.units, "unit")} removed (${share})`,
        ...lines,
        found.length > room ? `and ${found.length - room} more` : null,
      ]);
      return found.map(({ curve, value }) =>
        s("circle", { cx: x(step), cy: y(value), r: curve === near?.curve ? 5 : 3.5, style: { fill: colour(curve) } }),
      );
    }

    const leave = () => shapes.forEach((node) => node.classList.remove("near"));
    cursor(root, { left, right, top, bottom }, steps.map(x), show, leave);
  }

  return {
    node: place,
    start: () => (again = picture(place, "Ablation curves", (width) => Math.max(300, Math.min(430, width * 0.6)), draw)),
    update: () => again(),
    /** Lets one curve stand out; null lets all be as they were. */
    emphasise(key) {
      const known = key !== null && shapes.has(key);
      shapes.forEach((node, other) => node.classList.toggle("dim", known && other !== key));
    },
  };
}

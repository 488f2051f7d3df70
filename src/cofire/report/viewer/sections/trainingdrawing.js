// The drawing of a training: a measure and accuracies over checkpoints, each over its own range or as measured.

import { cursor, lineSign } from "../curves.js";
import { fitted, h, picture, s, showTip, textWidth } from "../dom.js";
import { leftAxis, leftRoom } from "../marks.js";
import { exact, extent, linear, percent } from "../numbers.js";

const COLOURS = { measure: "var(--accent)", accuracy: "var(--second)", test_accuracy: "var(--muted)" };

const sign = (key) => lineSign(key, COLOURS[key]);

/** A measure's name in words. */
export const spoken = (series) => series.measure.replaceAll("_", " ");

/** The lines of a training, those without numbers left out. */
function lines({ run, series }) {
  return [
    { key: "measure", name: spoken(series), values: series.values, text: exact },
    { key: "accuracy", name: "training accuracy", values: run.accuracy, text: (value) => percent(value, 2) },
    { key: "test_accuracy", name: "test accuracy", values: run.test_accuracy ?? [], text: (value) => percent(value, 2) },
  ].filter(({ values }) => values.some((value) => value !== null));
}

/** Lines moved to 0 to 1 each, as paper 000 draws them. */
function normalised(line) {
  const known = line.values.filter((value) => value !== null);
  const own = linear(Math.min(...known), Math.max(...known), 0, 1);
  return { ...line, drawn: line.values.map((value) => (value === null ? null : own(value))) };
}

/** What is drawn in one frame, or in two, one above the other. */
function frames({ scale, unit, ...state }) {
  const all = lines(state);
  if (scale === "own") return [{ title: "smallest 0, largest 1", domain: [-0.03, 1.03], lines: all.map(normalised) }];
  const frame = (own, title, drawn, limits) => {
    const shown = own.map((line) => ({ ...line, drawn: line.values.map((value) => (value === null ? null : drawn(value))) }));
    return { title, domain: extent(shown.flatMap((line) => line.drawn), limits), lines: shown };
  };
  return [
    frame(all.filter(({ key }) => key === "measure"), unit, (value) => value, {}),
    frame(all.filter(({ key }) => key !== "measure"), "accuracy, %", (value) => 100 * value, { least: 0, most: 100 }),
  ].filter((one) => one.lines.length);
}

function path(values, x, y) {
  let pen = "M";
  return values
    .map((v, i) => (v === null ? ((pen = "M"), "") : `${[pen, (pen = "L")][0]}${x(i).toFixed(1)},${y(v).toFixed(1)}`))
    .join("");
}

/** The drawing with its legend. `state` holds the run, the series and the scale. */
export function drawing(state) {
  const place = h("div", { class: "drawing" });
  const legend = h("div", { class: "legend" });
  let again = () => {};

  function draw(root, width, height) {
    const { checkpoints } = state.run;
    const shown = frames(state);
    const [top, bottom, right] = [26, height - 30, width - 10];
    const left = Math.max(...shown.map(({ domain }) => leftRoom(...domain)));
    const x = linear(0, checkpoints.length - 1, left + 6, right - 4);
    const tall = (bottom - top - 34 * (shown.length - 1)) / shown.length;
    const drawn = shown.flatMap(({ title, domain, lines: own }, i) => {
      const upper = top + i * (tall + 34);
      const y = linear(...domain, upper + tall, upper);
      leftAxis(root, y, domain, { left, right, top: upper, title });
      for (const line of own)
        root.append(s("path", { d: path(line.drawn, x, y), class: `line ${line.key}`, style: { stroke: COLOURS[line.key] } }));
      return own.map((line) => ({ ...line, y }));
    });
    const names = checkpoints.map((name) => fitted(name, 90, 11));
    const wide = Math.max(...names.map((name) => textWidth(name, 11)));
    const step = Math.ceil(names.length / Math.max(2, Math.floor((right - left) / (wide + 12))));
    names.forEach((name, i) => {
      if (i % step) return;
      const beyond = x(i) + wide / 2 > width;
      root.append(s("line", { x1: x(i), x2: x(i), y1: bottom, y2: bottom + 4, class: "zero" }));
      root.append(s("text", { x: beyond ? width : x(i), y: bottom + 18, class: `tick ${beyond ? "end" : "middle"}` }, name));
    });
    root.setAttribute(
      "aria-label",
      `${drawn.map(({ name }) => name).join(", ")} over ${checkpoints.length} checkpoints; arrow keys read values`,
    );
    legend.replaceChildren(...drawn.map(({ key, name }) => h("span", null, sign(key), ` ${name}`)));

    const places = checkpoints.map((_, i) => x(i));
    cursor(root, { left, right, top, bottom }, places, (index, point) => {
      showTip(...point, [checkpoints[index], ...drawn.map(({ key, name, values, text }) => [name, text(values[index]), sign(key)])]);
      const known = drawn.filter((line) => line.drawn[index] !== null);
      const marked = (line) => ({ cx: places[index], cy: line.y(line.drawn[index]), r: 4, style: { fill: COLOURS[line.key] } });
      return known.map((line) => s("circle", marked(line)));
    });
  }

  return {
    node: [place, legend],
    update: () => again(),
    start: () => (again = picture(place, "", (width) => Math.max(300, Math.min(420, width * 0.5)), draw)),
  };
}

// A layer as paper 002 draws it: each unit's share of the softmax over the layer, for two classes.

import { choice, figure, fitted, h, hideTip, picture, s, showTip } from "../dom.js";
import { bottomAxis, leftAxis, leftRoom } from "../marks.js";
import { count, exact, linear, number, tickText, ticks } from "../numbers.js";

const chosen = { above: null, below: null };

/** Two classes to start with: the unit's preferred one, and the one for which it is weakest. */
function defaults(data, unit) {
  const counts = data.meta.classes.counts;
  const seen = data.classes.map((_, c) => c).filter((c) => counts[c] > 0);
  const preferred = unit.row >= 0 ? unit.value("preferred_class") : null;
  const above = preferred ?? seen[0] ?? 0;
  const rest = seen.filter((c) => c !== above);
  return [
    above,
    rest.length ? rest.reduce((a, b) => ((unit.means?.[b] ?? 0) < (unit.means?.[a] ?? 0) ? b : a)) : above,
  ];
}

export function draw(container, data, unit) {
  const { classes } = data;
  const { layer, about } = unit;
  const column = data.column(`shares/${layer}`);
  const listed = data.has(`profile_units/${layer}`) ? data.column(`profile_units/${layer}`).values : null;
  const rows = column.shape[0];
  const [first, second] = defaults(data, unit);
  const pair = { above: chosen.above ?? first, below: chosen.below ?? second };
  const names = classes.map((name, c) => [c, name]);
  const drawing = h("div", { class: "drawing" });
  const note = h("span");
  const at = (row, c) => column.at(row * classes.length + c);
  const some = listed ? ` Shown are the ${count(rows)} most informative of ${count(about.units)} units.` : "";

  let again = () => {};
  const set = (side) => (value) => {
    pair[side] = chosen[side] = Number(value);
    again();
  };
  const controls = h(
    "div",
    { class: "controls" },
    choice("Class above", names, pair.above, set("above")),
    choice("Class below", names, pair.below, set("below")),
  );
  const frame = figure(`All units of ${about.name}, for two classes`, null, controls, drawing);
  frame.querySelector("figcaption").append(note);
  container.append(frame);

  again = picture(drawing, "Share of the softmax for every unit and two classes", 260, (root, width, height) => {
    let most = 1 / about.units;
    let peak = [0, 0];
    for (let row = 0; row < rows; row++) {
      for (const c of [pair.above, pair.below]) most = Math.max(most, at(row, c) ?? 0);
      if ((at(row, pair.above) ?? 0) > peak[1]) peak = [row, at(row, pair.above)];
    }
    note.textContent =
      `The softmax over the layer's mean activations, unit by unit: for class ${classes[pair.above]} upwards, for class ${classes[pair.below]} downwards. ` +
      `Dashed: an even spread, 1/${count(about.units)} = ${number(1 / about.units)}. ` +
      `The largest share for class ${classes[pair.above]} is ${number(peak[1])}, of unit ${listed ? listed[peak[0]] : peak[0]}.${some}`;
    const [top, bottom] = [26, height - 40];
    const left = leftRoom(0, most);
    const middle = (top + bottom) / 2;
    const x = linear(0, rows, left, width - 6);
    const up = linear(0, most, middle, top);
    const down = linear(0, most, middle, bottom);
    leftAxis(root, up, [0, most], { left, right: width, top, title: "share of the softmax", wanted: 2 });
    for (const mark of ticks(0, most, 2).filter(Boolean)) {
      root.append(s("line", { x1: left, x2: width, y1: down(mark), y2: down(mark), class: "grid" }));
      root.append(
        s(
          "text",
          { x: left - 6, y: down(mark) + 4, class: "tick end" },
          tickText(ticks(0, most, 2)).at(ticks(0, most, 2).indexOf(mark)),
        ),
      );
    }
    const step = x(1) - x(0);
    const stems = (c, scale) =>
      Array.from({ length: rows }, (_, row) =>
        at(row, c) === null ? "" : `M${(x(row) + step / 2).toFixed(2)},${middle}V${scale(at(row, c)).toFixed(2)}`,
      ).join("");
    const thick = Math.max(Math.min(step * 0.75, 8), 0.6);
    root.append(s("path", { d: stems(pair.above, up), class: "stems accent", "stroke-width": thick }));
    root.append(s("path", { d: stems(pair.below, down), class: "stems second", "stroke-width": thick }));
    for (const scale of [up, down])
      root.append(
        s("line", { x1: left, x2: width - 6, y1: scale(1 / about.units), y2: scale(1 / about.units), class: "even" }),
      );
    const name = (c, room) => fitted(classes[c], room, 11);
    const half = (width - 190) / 2;
    root.append(
      s(
        "text",
        { x: width - 6, y: top - 10, class: "tick end strong" },
        s("tspan", { class: "accent" }, `▲ class ${name(pair.above, half)}`),
        "   ",
        s("tspan", { class: "second" }, `▼ class ${name(pair.below, half)}`),
      ),
    );
    if (listed)
      root.append(s("text", { x: (left + width) / 2, y: bottom + 32, class: "axis middle" }, "units, by number"));
    else
      bottomAxis(root, x, [0, rows], {
        y: bottom + 2,
        title: "unit",
        x: (left + width) / 2,
        wanted: Math.floor(width / 110),
      });
    const own = data.place("profile_units", layer, unit.unit);
    if (own >= 0) {
      const here = x(own) + step / 2;
      root.append(s("path", { d: `M${here},${bottom + 1}l-4,7h8z`, class: "fill-text" }));
    }
    const cover = s("rect", { x: left, y: top, width: width - 6 - left, height: bottom - top, class: "hit" });
    const row = (event) =>
      Math.max(0, Math.min(rows - 1, Math.floor((event.clientX - root.getBoundingClientRect().left - left) / step)));
    cover.addEventListener("pointermove", (event) => {
      const k = row(event);
      showTip(event.clientX, event.clientY, [
        `unit ${listed ? listed[k] : k} of ${about.name}`,
        [`class ${classes[pair.above]}`, exact(at(k, pair.above))],
        [`class ${classes[pair.below]}`, exact(at(k, pair.below))],
      ]);
    });
    cover.addEventListener("pointerleave", hideTip);
    cover.addEventListener("click", (event) => data.pick(layer, listed ? listed[row(event)] : row(event)));
    root.append(cover);
  });
}

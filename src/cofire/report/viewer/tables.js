// Tables of numbers with their intervals, drawn and written.

import { h, s, tipped } from "./dom.js";
import { exact, linear } from "./numbers.js";

const [WIDTH, EDGE] = [120, 5];

/** A table in a box of its own, which may scroll. */
export function table(label, kind, heads, rows) {
  return h(
    "div",
    { class: "scroll fit", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: kind }, h("thead", null, h("tr", null, heads)), h("tbody", null, rows)),
  );
}

/** A word with what it means. */
export function explained(text, words) {
  return tipped(h("span", { class: "term", tabindex: "0" }, text), [text, words]);
}

/** The heading of a column, with what it means. */
export function head(text, words) {
  return h("th", { scope: "col" }, words ? explained(text, words) : text);
}

/** The cell of a number that does not apply to its row. */
export const none = () => h("td", { class: "absent-cell" }, "–");

/** The cell of a number with its 95 % interval, on a scale that the column shares; a line marks the number to compare with. */
export function ranged(name, [value, low, high], domain, level, text, coarse = text) {
  const x = linear(...domain, EDGE, WIDTH - EDGE);
  const known = low !== null && high !== null;
  return tipped(
    h(
      "td",
      { "data-value": value },
      s(
        "svg",
        { width: WIDTH, height: 14, viewBox: `0 0 ${WIDTH} 14`, class: "interval", "aria-hidden": "true" },
        s("line", { x1: x(level), x2: x(level), y1: 0, y2: 14, class: "zero" }),
        known ? s("line", { x1: x(low), x2: x(high), y1: 7, y2: 7, class: "reach" }) : null,
        value === null ? null : s("circle", { cx: x(value), cy: 7, r: 3.5, class: "fill-second" }),
      ),
      h("span", { class: "value" }, text(value)),
      h("small", null, known ? `${coarse(low)} to ${coarse(high)}` : null),
    ),
    [name, ["value", exact(value)], ["lower end", exact(low)], ["upper end", exact(high)], "95 % interval"],
  );
}

// What drawings of curves share: a piece of line as a sign, and a cursor that the pointer and the arrow keys move.

import { hideTip, s } from "./dom.js";

/** A short piece of a line, as its sign in a legend; with `banded`, on a piece of its band. */
export function lineSign(kind, colour, banded = false) {
  return s(
    "svg",
    { width: 26, height: 12, viewBox: "0 0 26 12", class: "curve-sign", "aria-hidden": "true" },
    banded ? s("rect", { x: 0, y: 1, width: 26, height: 10, class: "curve-band" }) : null,
    s("line", { x1: 1, x2: 25, y1: 6, y2: 6, class: `line ${kind}`, style: { stroke: colour } }),
  );
}

/**
 * A line across a drawing at one of the `places`, rising numbers from the left. `show` is told which one, where to put its
 * tip, and how high the pointer is (null from the keyboard); it gives the marks on the line. `leave` undoes what it did.
 */
export function cursor(root, { left, right, top, bottom }, places, show, leave = () => {}) {
  const marks = s("g", { class: "curve-cursor" });
  const area = s("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "hit" });
  root.append(marks, area);
  let at = -1;

  function move(index, point, height = null) {
    at = index;
    const x = places[index];
    marks.replaceChildren(s("line", { x1: x, x2: x, y1: top, y2: bottom }), ...show(index, point, height));
  }

  function end() {
    at = -1;
    marks.replaceChildren();
    leave();
    hideTip();
  }

  function follow(event) {
    if (!places.length) return;
    const box = root.getBoundingClientRect();
    const far = (i) => Math.abs(places[i] - (event.clientX - box.left));
    const index = places.reduce((best, _, i) => (far(i) < far(best) ? i : best), 0);
    move(index, [event.clientX, event.clientY], event.clientY - box.top);
  }

  area.addEventListener("pointermove", follow);
  area.addEventListener("pointerdown", follow);
  area.addEventListener("pointerleave", end);
  root.setAttribute("tabindex", "0");
  root.addEventListener("blur", end);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !places.length) return;
    event.preventDefault();
    const box = root.getBoundingClientRect();
    const next = at < 0 ? 0 : Math.max(0, Math.min(places.length - 1, at + step));
    move(next, [box.left + places[next], box.top + top]);
  });
}

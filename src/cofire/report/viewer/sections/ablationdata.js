// Ablation curves as the page holds them, in groups that removed the same units; what they are called and coloured.

import { categories } from "../colours.js";

const WORDS = { ascending: "low values first", descending: "high values first" };

/** What units are ordered by, in words. */
export function measureName(data, by) {
  const { orders, columns } = data.meta.glossary;
  return orders[by]?.label ?? data.measure(by)?.label ?? columns[by]?.label ?? by;
}

/** What that is, for a tooltip. */
export function measureWords(data, by) {
  const { orders, columns } = data.meta.glossary;
  return orders[by]?.words ?? data.measure(by)?.words ?? columns[by]?.words ?? null;
}

/** Curves over the same layers, each with a name of its own and a key that says the same in every group. */
export function groupsOf(data) {
  const made = new Map();
  for (const about of data.meta.ablation) {
    const key = JSON.stringify(about.layers);
    if (!made.has(key)) made.set(key, { layers: about.layers, units: about.units, curves: [] });
    const { curves } = made.get(key);
    const same = (curve) => ["by", "order", "fill"].every((part) => curve[part] === about[part]);
    const copy = curves.filter(same).length + 1;
    const measure = measureName(data, about.by) + (copy > 1 ? ` (${copy})` : "");
    const name = about.order === "random" ? measure : `${measure}, ${WORDS[about.order]}`;
    curves.push({ ...about, row: `${about.by} ${copy}`, key: `${about.by} ${copy} ${about.order}`, measure, name });
  }
  const groups = [...made.values()];
  const short = ({ layers }) => (layers.length === 1 ? layers[0] : `${layers.length} layers together`);
  for (const group of groups) {
    group.fills = ["mean", "zero"].filter((fill) => group.curves.some((curve) => curve.fill === fill));
    group.name = short(group);
    if (groups.filter((other) => short(other) === group.name).length > 1) group.name += ` (${group.layers.join(", ")})`;
  }
  return groups;
}

/** A colour for what a curve orders units by, the same in every group; random ones are grey. */
export function colouring(data) {
  const all = [...new Set(data.meta.ablation.filter((curve) => curve.order !== "random").map((curve) => curve.by))];
  return (curve) =>
    curve.order === "random" ? "var(--muted)" : `rgb(${categories(all.length)[all.indexOf(curve.by)].join(", ")})`;
}

/** A curve's value with so many units removed: as measured, or on the line between the steps beside it. */
export function valueAt(curve, values, removed) {
  const after = curve.removed.findIndex((step) => step >= removed);
  if (after < 0) return null;
  if (curve.removed[after] === removed) return { value: values[after], measured: true };
  const [left, right] = [values[after - 1] ?? null, values[after]];
  if (left === null || right === null) return null;
  const [from, to] = [curve.removed[after - 1], curve.removed[after]];
  return { value: left + ((right - left) * (removed - from)) / (to - from), measured: false };
}

/** The place of the step nearest to a number of units removed; -1 if there is none within an eighth of all. */
export function nearestStep(curve, removed) {
  const far = curve.removed.map((step) => Math.abs(step - removed));
  const place = far.indexOf(Math.min(...far));
  return far[place] <= curve.units / 8 ? place : -1;
}

/** The accuracy with all units, where the curves agree on it; null where they do not. */
export function wholeAccuracy(curves) {
  const starts = curves.filter((curve) => curve.removed[0] === 0).map((curve) => curve.accuracy[0]);
  return starts.length && Math.max(...starts) - Math.min(...starts) < 1e-6 ? starts[0] : null;
}

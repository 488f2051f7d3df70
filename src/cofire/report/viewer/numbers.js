// Numbers as text, and scales with their ticks.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number with thousands separated. */
export function count(value) {
  return value === null || value === undefined ? "–" : grouped.format(value);
}

/** "1 unit", "2 units", "3 classes". */
export function counted(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

/** A number with so many significant digits, without an exponent where one can do without. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-5) return value.toExponential(Math.max(digits - 1, 0)).replace("e+", "e");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return size >= 1000 ? grouped.format(value) : value.toFixed(Math.min(decimals, 8));
}

/** All the digits that are kept of a number. */
export function exact(value) {
  return value === null || value === undefined ? "not known" : String(value);
}

/** A share as a percentage. */
export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
}

/** A difference of shares in points, with its sign. */
export function points(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const text = (100 * Math.abs(value)).toFixed(digits);
  return `${Number(text) === 0 ? "±" : value < 0 ? "−" : "+"}${text}`;
}

/** Round steps that cover a range: about `wanted` of them. */
export function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const misfit = (step) =>
    Math.abs(Math.log((Math.floor(high / step + 1e-9) - Math.ceil(low / step - 1e-9) + 1 || 0.1) / wanted));
  const step = [0.5, 1, 2, 2.5, 5, 10]
    .map((factor) => factor * power)
    .reduce((best, size) => (misfit(size) < misfit(best) ? size : best));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Ticks as text, with the decimals that tell them apart. */
export function tickText(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : Math.abs(values[0]) || 1;
  const largest = Math.max(...values.map(Math.abs));
  if (largest >= 1e6 || (largest < 1e-4 && largest > 0))
    return values.map((v) => (v ? v.toExponential(1).replace("e+", "e") : "0"));
  let decimals = Math.max(0, -Math.floor(Math.log10(step)));
  if (Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-9) decimals += 1;
  return values.map((value) => (decimals ? value.toFixed(decimals) : grouped.format(value)));
}

/** A linear scale: maps [from, to] to [start, end]. */
export function linear(from, to, start, end) {
  const slope = to > from ? (end - start) / (to - from) : 0;
  return (value) => (to > from ? start + (value - from) * slope : (start + end) / 2);
}

/** A range that holds the values with a little air, kept within given limits. */
export function extent(values, { zero = false, air = 0.04, least = -Infinity, most = Infinity } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  const room = high > low ? (high - low) * air : Math.abs(high) * 0.1 || 0.5;
  return [Math.max(zero && low === 0 ? 0 : low - room, least), Math.min(high + room, Math.max(most, high))];
}

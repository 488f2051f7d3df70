// Colour ramps of even perceived steps, made from a few control points, for light and for dark paper.

const LIGHT = ["#fbf9f4", "#fbe0a6", "#f3a357", "#d9574b", "#9a2c64", "#4a1a5c", "#1b0f33"];
const DARK = ["#19171e", "#41205f", "#872a6b", "#c8464f", "#ee8245", "#f8c25f", "#fdf6cf"];
const BELOW = {
  light: ["#fbf9f4", "#9cc6d8", "#2f7fa3", "#12405a"],
  dark: ["#19171e", "#1f4f66", "#3f94b8", "#bfe6f3"],
};
const ABOVE = {
  light: ["#fbf9f4", "#f6b98a", "#d4532f", "#7a1f14"],
  dark: ["#19171e", "#6b2c1c", "#d8643a", "#fbd3b4"],
};

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;

/** The value of a colour of the style sheet. */
export function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const linearised = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const encoded = (v) => 255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);

// Ottosson's OKLab: equal distances in it look about equally different.
function toLab(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => linearised(parseInt(hex.slice(at, at + 2), 16) / 255));
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const n = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * n,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * n,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * n,
  ];
}

function toBytes([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const n = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * n,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * n,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * n,
  ].map((v) => Math.round(Math.min(255, Math.max(0, encoded(Math.min(1, Math.max(0, v)))))));
}

/** 256 colours along control points, resampled so that lightness changes by equal steps. */
export function ramp(points) {
  const labs = points.map(toLab);
  const [first, last] = [labs[0][0], labs[labs.length - 1][0]];
  return Array.from({ length: 256 }, (_, i) => {
    const wanted = first + ((last - first) * i) / 255;
    let k = 0;
    while (k < labs.length - 2 && (last > first ? labs[k + 1][0] < wanted : labs[k + 1][0] > wanted)) k += 1;
    const share = (wanted - labs[k][0]) / (labs[k + 1][0] - labs[k][0]);
    return toBytes(labs[k].map((value, axis) => value + share * (labs[k + 1][axis] - value)));
  });
}

const GROUPS = {
  light: "#2f6fb0 #e07b21 #3a9152 #c9363f #7d55b3 #159198 #d8619f #b08e0c #8a5a3c #6a7685 #7fa62c #1f3d7a".split(" "),
  dark: "#6ea8e6 #ffa14f #6cc785 #ff7077 #b593ea #4fcfd2 #f595c4 #e3c54a #c9966f #a2aebd #b9db6b #5c78d8".split(" "),
};

const made = new Map();
const once = (name, make) => made.get(name) ?? made.set(name, make()).get(name);

/** The ramp for values from nothing to all, for the current colour scheme. */
export const sequential = () => (isDark() ? once("dark", () => ramp(DARK)) : once("light", () => ramp(LIGHT)));

/** The ramp for values below and above a middle. */
export function diverging() {
  const scheme = isDark() ? "dark" : "light";
  return once(`diverging ${scheme}`, () => {
    const [below, above] = [ramp(BELOW[scheme]), ramp(ABOVE[scheme])];
    return Array.from({ length: 256 }, (_, i) => (i < 128 ? below[255 - 2 * i] : above[2 * (i - 128) + 1]));
  });
}

/** Colours for groups without an order: twelve chosen ones, or as many hues as there are groups, light and dark in turn. */
export function categories(count) {
  const scheme = isDark() ? "dark" : "light";
  if (count <= GROUPS[scheme].length) return GROUPS[scheme].slice(0, count).map((hex) => toBytes(toLab(hex)));
  return once(`groups ${scheme} ${count}`, () =>
    Array.from({ length: count }, (_, i) => {
      const hue = i * Math.PI * (3 - Math.sqrt(5)); // the golden angle keeps neighbours in number far apart in hue
      const light = (scheme === "dark" ? [0.75, 0.86, 0.65] : [0.6, 0.47, 0.7])[i % 3];
      return toBytes([light, 0.135 * Math.cos(hue), 0.135 * Math.sin(hue)]);
    }),
  );
}

/** The bytes of a colour of the style sheet written as #rrggbb. */
export function bytes(name) {
  const hex = ink(name);
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** A legend: the ramp from one number to another. */
export function legend(canvas, colours, vertical = false) {
  const context = canvas.getContext("2d");
  [canvas.width, canvas.height] = vertical ? [1, 256] : [256, 1];
  const image = context.createImageData(canvas.width, canvas.height);
  colours.forEach((colour, i) => {
    const at = 4 * (vertical ? 255 - i : i);
    image.data.set([...colour, 255], at);
  });
  context.putImageData(image, 0, 0);
}

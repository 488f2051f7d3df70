// Elements, the tooltip, and drawings that follow the width of their place.
// Text only ever enters through text nodes and attributes, so no name from a model or a data set can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, rule] of Object.entries(value)) node.style.setProperty(key, rule);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element: h("p", { class: "lead" }, "text", child). */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Calls back when the colour scheme changes, and before and after printing, which is always on light paper. */
export function whenColoursChange(call) {
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", call);
}

/** Redraws whenever the place changes its width, or the colour scheme changes. `draw` gets the width in pixels. */
export function responsive(place, draw) {
  let width = 0;
  const again = (force) => {
    const now = Math.floor(place.clientWidth);
    if (now > 0 && (force || now !== width)) draw((width = now));
  };
  new ResizeObserver(() => again(false)).observe(place);
  whenColoursChange(() => again(true));
  again(true);
  return () => again(true);
}

/** An SVG picture that follows the width of its place; `height` may depend on the width. */
export function picture(place, label, height, draw) {
  return responsive(place, (width) => {
    const tall = typeof height === "function" ? height(width) : height;
    const root = s("svg", { width, height: tall, viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": label });
    draw(root, width, tall);
    place.replaceChildren(root);
  });
}

/** A canvas context in CSS pixels, sharp on dense screens. */
export function sharp(canvas, width, height) {
  const density = Math.min(window.devicePixelRatio || 1, 3);
  canvas.width = Math.max(1, Math.round(width * density));
  canvas.height = Math.max(1, Math.round(height * density));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  return context;
}

const measuring = document.createElement("canvas").getContext("2d");

/** Width of a text in pixels. */
export function textWidth(text, size = 12) {
  measuring.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return measuring.measureText(text).width;
}

/** A text that fits a width, its middle left out if need be: the ends of layer names tell them apart. */
export function fitted(text, width, size = 12) {
  text = String(text);
  if (textWidth(text, size) <= width) return text;
  for (let keep = text.length - 1; keep > 1; keep--) {
    const short = `${text.slice(0, Math.ceil(keep / 2))}…${text.slice(text.length - Math.floor(keep / 2))}`;
    if (textWidth(short, size) <= width) return short;
  }
  return "…";
}

/** Shows lines of text beside a point of the window; the first line is the heading. A pair may come with a sign. */
export function showTip(x, y, lines) {
  const tip = document.getElementById("tip");
  tip.replaceChildren(
    ...lines.filter(Boolean).map((line, i) => {
      if (Array.isArray(line))
        return h("div", { class: "pair" }, h("span", null, line[2], line[0]), h("b", { "data-value": line[1] }, line[1]));
      return h("div", { class: i ? "" : "head" }, line);
    }),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight - 8 ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

export function hideTip() {
  document.getElementById("tip").hidden = true;
}

/** Gives an element a tooltip, for the pointer and for the keyboard. */
export function tipped(node, lines) {
  const make = typeof lines === "function" ? lines : () => lines;
  node.addEventListener("pointermove", (event) => showTip(event.clientX, event.clientY, make()));
  node.addEventListener("pointerleave", hideTip);
  node.addEventListener("focus", () => {
    const box = node.getBoundingClientRect();
    if (node.matches(":focus-visible")) showTip(box.left, box.bottom - 8, make());
  });
  node.addEventListener("blur", hideTip);
  return node;
}

/** A labelled drop-down list of [value, text] pairs. */
export function choice(label, options, value, change) {
  const list = h(
    "select",
    { "aria-label": label, onchange: (event) => change(event.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)),
  );
  return h("label", { class: "control" }, h("span", null, label), list);
}

/** A figure: a title that says what is seen, a note on what the numbers are, and a place to draw in. */
export function figure(title, note, ...content) {
  return h(
    "figure",
    null,
    h("figcaption", null, title ? h("strong", null, title) : null, note ? h("span", null, note) : null),
    content,
  );
}

// The drawing of a co-firing graph: vertices at their places, the stronger edges, and what pointer and keys do with it.

import { categories, ink } from "../colours.js";
import { fitted, h, hideTip, responsive, sharp, showTip, textWidth } from "../dom.js";
import { count, counted, exact } from "../numbers.js";
import { groupCount, groupName } from "./graphdata.js";

const AIR = 30;
const [LEAST_ZOOM, MOST_ZOOM] = [0.5, 60];
const LEVELS = 6;

/** "0, 3 and 8", with an end where there are many. */
function listed(names) {
  const shown = names.length > 12 ? [...names.slice(0, 12), `${names.length - 12} more`] : names;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown[shown.length - 1]}`;
}

/** A canvas that shows `state` ({ graph, by, least, kept }) and says with `keep` which group was clicked, or null. */
export function drawing(data, state, keep) {
  const canvas = h("canvas", { tabindex: "0", role: "img", class: "graph" });
  const place = h("div", { class: "graph-place" }, canvas);
  const button = (text, label, act) =>
    h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  const middle = () => [width / 2, tall / 2];
  const frame = h(
    "div",
    { class: "graph-frame" },
    place,
    h(
      "div",
      { class: "graph-buttons" },
      button("+", "Zoom in", () => zoom(...middle(), 1.4)),
      button("−", "Zoom out", () => zoom(...middle(), 1 / 1.4)),
    ),
  );
  let [width, tall] = [0, 0];
  let view = { scale: 1, dx: 0, dy: 0 };
  let shape = null; // what depends on the graph only
  let [px, py, size] = [[], [], []]; // where vertices stand on the canvas, for the pointer
  let over = -1;
  let drag = null;
  let waiting = 0;
  const later = () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), paint())));

  function measured(graph) {
    const [left, right] = [Math.min(...graph.x), Math.max(...graph.x)];
    const [top, bottom] = [Math.min(...graph.y), Math.max(...graph.y)];
    const order = graph.unit.map((_, v) => v).sort((a, b) => graph.strength[b] - graph.strength[a] || a - b);
    return {
      graph,
      x: (left + right) / 2,
      y: (top + bottom) / 2,
      wide: Math.max(right - left, 0.1),
      high: Math.max(bottom - top, 0.1),
      order, // large circles first, so that small ones lie on top
      strongest: Math.max(...graph.strength, 1e-9),
    };
  }

  function settle() {
    const { graph } = state;
    const fit = Math.min((width - 2 * AIR) / shape.wide, (tall - 2 * AIR) / shape.high) * view.scale;
    px = graph.x.map((x) => width / 2 + (x - shape.x) * fit + view.dx);
    py = graph.y.map((y) => tall / 2 + (y - shape.y) * fit + view.dy);
    const crowd = Math.min(1.25, Math.max(0.7, Math.sqrt(260 / graph.vertices))) * Math.min(1, Math.sqrt(width / 640));
    const grown = Math.min(Math.sqrt(view.scale), 2.6);
    size = graph.strength.map((strength) => (2.6 + 6.4 * Math.sqrt(strength / shape.strongest)) * crowd * grown);
  }

  /** How much a vertex stands out: 1 as it is, 0 dimmed, between them one that represents the kept class besides its own. */
  function weightOf(vertex) {
    const { graph, by, kept } = state;
    if (kept === null || graph.groups[by][vertex] === kept) return 1;
    return by === "class" && graph.represents(kept, vertex) ? 0.5 : 0;
  }

  function paintEdges(context, shades) {
    const { graph, by, least, kept } = state;
    const groups = graph.groups[by];
    const shown = graph.strong(least);
    const [most, low] = [graph.weight[0], graph.weight[graph.weight.length - 1]];
    const base = Math.min(0.7, 13 / Math.sqrt(Math.max(shown, 1)));
    const paths = new Map();
    for (let e = shown - 1; e >= 0; e--) {
      const [a, b] = [graph.from[e], graph.to[e]];
      const share = most > low ? (graph.weight[e] - low) / (most - low) : 1;
      const group = groups[a] === groups[b] ? groups[a] : -1;
      const near = kept === null || (weightOf(a) > 0 && weightOf(b) > 0);
      const key = ((near ? 1 : 0) * LEVELS + Math.min(LEVELS - 1, Math.floor(share * LEVELS))) * 4096 + group + 1;
      if (!paths.has(key)) paths.set(key, { path: new Path2D(), near, group, level: Math.floor((key >> 12) % LEVELS) });
      const { path } = paths.get(key);
      path.moveTo(px[a], py[a]);
      path.lineTo(px[b], py[b]);
    }
    for (const key of [...paths.keys()].sort((a, b) => a - b)) {
      const { path, near, group, level } = paths.get(key);
      const share = (level + 0.5) / LEVELS;
      context.globalAlpha = near ? base * (0.35 + 0.65 * share) : 0.03;
      context.lineWidth = 0.6 + 1.4 * share;
      context.strokeStyle = group >= 0 ? shades[group] : ink("muted");
      context.stroke(path);
    }
    if (over < 0) return;
    context.globalAlpha = 0.55;
    context.lineWidth = 1.1;
    context.strokeStyle = ink("text");
    context.beginPath();
    for (let e = 0; e < shown; e++) {
      if (graph.from[e] !== over && graph.to[e] !== over) continue;
      context.moveTo(px[graph.from[e]], py[graph.from[e]]);
      context.lineTo(px[graph.to[e]], py[graph.to[e]]);
    }
    context.stroke();
  }

  function paintVertices(context, shades) {
    const { graph, by, kept } = state;
    const paper = ink("panel");
    const circle = (v, radius) => {
      context.beginPath();
      context.arc(px[v], py[v], radius, 0, 2 * Math.PI);
    };
    const stand = shape.order.map((v) => [weightOf(v), v]);
    for (const level of [0, 0.5, 1])
      for (const [out, v] of stand) {
        if (out !== level || px[v] < -20 || py[v] < -20 || px[v] > width + 20 || py[v] > tall + 20) continue;
        const shade = shades[graph.groups[by][v]] ?? ink("muted");
        circle(v, size[v]);
        context.globalAlpha = 1;
        context.fillStyle = paper; // so that no edge shines through
        context.fill();
        context.globalAlpha = out === 1 ? 1 : out ? 0.55 : 0.13;
        context.fillStyle = shade;
        context.fill();
        context.globalAlpha = out ? 1 : 0.25;
        context.lineWidth = 1;
        context.strokeStyle = paper;
        context.stroke();
        if (out === 0.5) {
          circle(v, size[v] + 1.5);
          context.lineWidth = 1.6;
          context.strokeStyle = shades[kept];
          context.stroke();
        }
      }
    context.globalAlpha = 1;
    if (over >= 0) {
      circle(over, size[over] + 2.5);
      context.lineWidth = 2;
      context.strokeStyle = ink("text");
      context.stroke();
    }
  }

  /** Words over paper: a soft edge keeps them readable on top of anything. */
  function write(context, text, x, y) {
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeStyle = ink("panel");
    context.globalAlpha = 0.85;
    context.strokeText(text, x, y);
    context.globalAlpha = 1;
    context.fillStyle = ink("text");
    context.fillText(text, x, y);
  }

  /** Names of groups in the middle of their vertices, the largest first, as long as they do not meet; then unit numbers. */
  function paintWords(context) {
    const { graph, by, kept } = state;
    const family = getComputedStyle(document.body).fontFamily;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const groups = new Map();
    graph.groups[by].forEach((group, v) => (groups.get(group) ?? groups.set(group, []).get(group)).push(v));
    const wanted = kept === null ? (groups.size <= 12 ? [...groups.keys()] : []) : groups.has(kept) ? [kept] : [];
    wanted.sort((a, b) => groups.get(b).length - groups.get(a).length);
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    const taken = [];
    context.font = `600 14px ${family}`;
    for (const group of wanted) {
      const own = groups.get(group);
      const text = fitted(groupName(data, by, group), 130, 14);
      const half = textWidth(text, 14) / 2 + 4;
      let [x, y] = [median(own.map((v) => px[v])), median(own.map((v) => py[v]))];
      if (x < 0 || y < 0 || x > width || y > tall) continue;
      if (own.length < 4) y -= size[own[0]] + 12; // beside the few vertices, not on them
      [x, y] = [Math.min(Math.max(x, half), width - half), Math.max(y, 12)];
      if (taken.some(([ox, oy, room]) => Math.abs(ox - x) < room + half && Math.abs(oy - y) < 18)) continue;
      taken.push([x, y, half]);
      write(context, text, x, y);
    }
    const inside = graph.unit
      .map((_, v) => v)
      .filter((v) => px[v] > 0 && px[v] < width && py[v] > 0 && py[v] < tall && weightOf(v));
    if (view.scale < 2 || inside.length > 60) return;
    context.font = `10px ${family}`;
    for (const v of inside) write(context, String(graph.unit[v]), px[v], py[v] + size[v] + 7);
  }

  function paint() {
    if (!width || !state.graph.vertices) return;
    if (shape?.graph !== state.graph) shape = measured(state.graph);
    settle();
    const context = sharp(canvas, width, tall);
    const { graph, by } = state;
    const shades = categories(groupCount(data, graph, by)).map(([r, g, b]) => `rgb(${r}, ${g}, ${b})`);
    context.lineCap = "round";
    paintEdges(context, shades);
    paintVertices(context, shades);
    paintWords(context);
  }

  function words() {
    const { graph, by, least, kept } = state;
    const only = kept === null ? "" : `; ${by === "class" ? "class " : ""}${groupName(data, by, kept)} stands out`;
    canvas.setAttribute(
      "aria-label",
      `Co-firing graph of ${graph.name}: ${counted(graph.vertices, "unit")} coloured by ${by}, ` +
        `${count(graph.strong(least))} of ${counted(graph.edges, "edge")} drawn${only}. ` +
        "Arrow keys move, + and - zoom, 0 shows all, Escape releases what stands out.",
    );
  }

  function zoom(x, y, factor) {
    const scale = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, view.scale * factor));
    const change = scale / view.scale;
    view = {
      scale,
      dx: x - width / 2 - (x - width / 2 - view.dx) * change,
      dy: y - tall / 2 - (y - tall / 2 - view.dy) * change,
    };
    later();
  }

  function pan(x, y) {
    view = { ...view, dx: view.dx + x, dy: view.dy + y };
    later();
  }

  function reset() {
    view = { scale: 1, dx: 0, dy: 0 };
    over = -1;
    hideTip();
    later();
  }

  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  /** The vertex at a point, or the nearest one a few pixels away; one that stands out goes before a dimmed one. */
  function vertexAt([x, y]) {
    let [best, found] = [Infinity, -1];
    px.forEach((_, v) => {
      const far = Math.hypot(px[v] - x, py[v] - y) - size[v];
      const cost = Math.max(far, far / size[v]) + (weightOf(v) ? 0 : 4);
      if (far < 7 && cost < best) [best, found] = [cost, v];
    });
    return found;
  }

  function tip(event, vertex) {
    const { graph, least } = state;
    const shown = graph.strong(least);
    let edges = 0;
    for (let e = 0; e < shown; e++) if (graph.from[e] === vertex || graph.to[e] === vertex) edges += 1;
    const own = data.classes.filter((_, c) => graph.represents(c, vertex));
    showTip(event.clientX, event.clientY, [
      `unit ${graph.unit[vertex]} of ${graph.name}`,
      `represents ${own.length === 1 ? "class" : "classes"} ${listed(own)}`,
      own.length > 1 ? ["largest mean for class", data.classes[graph.groups.class[vertex]]] : null,
      ["community", String(graph.groups.community[vertex])],
      ["strength, the sum of its weights", exact(graph.strength[vertex])],
      ["edges drawn", count(edges)],
    ]);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { at: point(event), moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = point(event);
    if (drag) {
      const [x, y] = [at[0] - drag.at[0], at[1] - drag.at[1]];
      if (!drag.moved && Math.hypot(x, y) < 4) return;
      drag = { at, moved: true };
      hideTip();
      canvas.classList.add("dragged");
      pan(x, y);
      return;
    }
    const vertex = vertexAt(at);
    canvas.classList.toggle("over", vertex >= 0);
    vertex >= 0 ? tip(event, vertex) : hideTip();
    if (vertex !== over) {
      over = vertex;
      later();
    }
  });
  const leave = () => {
    drag = null;
    canvas.classList.remove("dragged");
    hideTip();
    if (over >= 0) later();
    over = -1;
  };
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) {
      const vertex = vertexAt(point(event));
      const group = vertex < 0 ? null : state.graph.groups[state.by][vertex];
      keep(group === state.kept ? null : group);
    }
    drag = null;
    canvas.classList.remove("dragged");
  });
  canvas.addEventListener("pointercancel", leave);
  canvas.addEventListener("pointerleave", () => drag || leave());
  canvas.addEventListener(
    "wheel",
    (event) => {
      // The page scrolls on unless the reader has turned to the drawing.
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
      event.preventDefault();
      hideTip();
      zoom(...point(event), Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) * 0.004));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [48, 0], ArrowRight: [-48, 0], ArrowUp: [0, 48], ArrowDown: [0, -48] }[event.key];
    const factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(move || factor || event.key === "0")) return;
    event.preventDefault();
    if (move) pan(...move);
    else if (factor) zoom(...middle(), factor);
    else reset();
  });

  return {
    node: frame,
    canvas,
    reset,
    start: () =>
      responsive(place, (now) => {
        [width, tall] = [now, Math.round(Math.max(340, Math.min(now * 0.8, 600)))];
        paint();
      }),
    update() {
      words();
      later();
    },
  };
}

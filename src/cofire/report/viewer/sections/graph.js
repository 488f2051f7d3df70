// The co-firing graph of a layer: units that stand for a class, joined where they are active together (001, section 5).

import { categories } from "../colours.js";
import { choice, figure, h, tipped, whenColoursChange } from "../dom.js";
import { count, counted } from "../numbers.js";
import { graphAt, groupCount, groupName } from "./graphdata.js";
import { drawing } from "./graphdrawing.js";
import { communities, heatMaps, modularities, pairs } from "./graphtables.js";

export const title = "Co-firing graph";
export const says = ["graph"];

const MOST_BUTTONS = 12;
const KINDS = { class: "classes", community: "communities" };

/** What is seen, in words. */
function meaning(graph) {
  const fewer =
    graph.top < graph.recorded_top
      ? ` (of ${count(graph.recorded_top)} recorded: more would make the sets overlap by their size alone, or crowd the picture)`
      : "";
  return (
    `Vertices are the ${graph.top === 1 ? "unit" : `${count(graph.top)} units`} with the largest mean activation for each class${fewer}: ` +
    `${counted(graph.vertices, "unit")} of ${graph.name}, as a unit may stand for several classes. An edge says in what share of a class's samples ` +
    "both units are above their own mean over that class, summed over classes. Only units of one class's set can have an edge, so sets that overlap " +
    "little make a modular graph by themselves; the column “if independent” below says what the sets alone give."
  );
}

/** Steps of the slider: about a hundred round ones over the weights that the page holds. */
function steps(weight) {
  if (!weight.length) return { low: 0, high: 0, step: 1, digits: 0 };
  const [most, least] = [weight[0], weight[weight.length - 1]];
  const power = Math.max(-4, Math.ceil(Math.log10(Math.max(most - least, 1e-9) / 200)));
  const step = 10 ** power;
  const round = (value) => Math.floor(value / step + 1e-6) * step;
  return { low: round(least), high: round(most), step, digits: Math.max(0, -power) };
}

export function draw(container, data) {
  const { graphs } = data.meta;
  if (!graphs.length) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "The graph is not here: co-firing counts were not recorded. They need histograms “cache” or “two-pass”, and cofiring “class” or “union”.",
      ),
    );
    return;
  }
  // The last layer is the one that the words above speak of.
  const first = Math.max(graphs.findLastIndex((graph) => graph.vertices > 0), 0);
  const state = { graph: null, by: "class", least: 0, kept: null };
  const picture = drawing(data, state, keep);
  const words = h("p", { class: "note" });
  const said = h("p", { class: "note graph-said", role: "status" });
  const edges = h("output", { class: "graph-edges" });
  const slider = h("input", {
    type: "range",
    class: "graph-slider",
    "aria-label": "Edges from weight",
    oninput: () => {
      state.least = Number(slider.value);
      update();
    },
  });
  const legend = h("div", { class: "graph-legend" });
  const shown = figure(
    "Which units are active together",
    "Circles are units, the larger the stronger their edges in sum.",
    h("div", { class: "graph-drawn" }, picture.node, legend),
    said,
  );
  const none = h("p", { class: "absent", hidden: true });
  const below = h("div");
  let buttons = new Map();
  let list = null;
  let digits = 0;

  function keep(group) {
    state.kept = group;
    update();
  }

  function update() {
    const { graph, by, least, kept } = state;
    const strong = graph.strong(least);
    const held = strong === graph.drawn_edges && strong < graph.edges ? "; the page holds only these, the strongest" : "";
    edges.textContent = graph.edges
      ? `Drawn: ${count(strong)} of ${counted(graph.edges, "edge")}, of weight ${least.toFixed(digits)} or more${held}`
      : "There is no edge.";
    slider.setAttribute("aria-valuetext", edges.textContent);
    for (const [group, button] of buttons) button.setAttribute("aria-pressed", String(group === kept));
    if (list) list.value = kept ?? "";
    if (kept === null)
      said.textContent =
        "Hover over a vertex for its unit; click on one, or in the legend, to keep its group and dim the others. " +
        "Drag to move; after a click, or with Ctrl, the wheel zooms.";
    else {
      const own = graph.groups[by].filter((group) => group === kept).length;
      const more =
        by === "class"
          ? graph.unit.filter((_, v) => graph.represents(kept, v) && graph.groups.class[v] !== kept).length
          : 0;
      const name = groupName(data, by, kept);
      const text =
        by === "class"
          ? `Class ${name}: ${counted(own, "unit")} with their largest mean for it` +
            `${more ? `, and ${count(more)} more that represent it too but have a larger mean for another class (ringed)` : ""}.`
          : `Community ${kept}: ${counted(own, "unit")}.`;
      said.textContent = `${text} Escape, or a click on empty ground, releases it.`;
    }
    picture.update();
  }

  function group(index, colour, many) {
    const name = groupName(data, state.by, index);
    const dot = h("span", { class: "dot" });
    dot.style.setProperty("background", `rgb(${colour.join(", ")})`);
    const button = h(
      "button",
      {
        type: "button",
        class: "graph-group",
        "aria-pressed": "false",
        onclick: () => keep(state.kept === index ? null : index),
      },
      dot,
      h("span", { class: "name" }, name),
      h("span", { class: "many" }, count(many)),
    );
    const about = state.by === "class" ? "with their largest class mean for it" : "in it";
    tipped(button, [state.by === "class" ? `class ${name}` : name, `${counted(many, "unit")} ${about}`]);
    return button;
  }

  /** A button for every group, or for the largest ones and a list of all. */
  function entries() {
    const { graph, by } = state;
    const many = new Array(groupCount(data, graph, by)).fill(0);
    graph.groups[by].forEach((index) => (many[index] += 1));
    const colours = categories(many.length);
    const all = many.map((_, index) => index);
    const cut = all.length > MOST_BUTTONS;
    const largest = [...all].sort((a, b) => many[b] - many[a] || a - b).slice(0, MOST_BUTTONS);
    buttons = new Map((cut ? largest : all).map((index) => [index, group(index, colours[index], many[index])]));
    list = null;
    const parts = [h("p", { class: "axis" }, cut ? `The ${MOST_BUTTONS} largest ${KINDS[by]}, units` : `${by}, units`)];
    parts.push(h("div", { class: "graph-groups" }, ...buttons.values()));
    if (cut) {
      const options = all.map((index) => [index, `${groupName(data, by, index)} (${count(many[index])})`]);
      const control = choice(`All ${count(all.length)} ${KINDS[by]}`, [["", "none kept"], ...options], "", (value) =>
        keep(value === "" ? null : Number(value)),
      );
      list = control.querySelector("select");
      parts.push(control);
    }
    legend.replaceChildren(...parts);
  }

  function colourBy(by) {
    Object.assign(state, { by, kept: null });
    entries();
    update();
  }

  function show(index) {
    const graph = graphAt(data, index);
    Object.assign(state, { graph, kept: null });
    words.textContent = meaning(graph);
    const { low, high, step, digits: needed } = steps(graph.weight);
    digits = needed;
    Object.assign(slider, { min: low, max: high, step, disabled: !(high > low) });
    // So many edges that shape shows, so few that they can be told apart.
    const from = graph.weight[Math.min(graph.weight.length, 4 * graph.vertices) - 1] ?? 0;
    slider.value = Math.min(high, Math.max(low, Math.ceil(from / step - 1e-6) * step));
    state.least = Number(slider.value);
    none.hidden = graph.vertices > 0;
    none.textContent = `No unit of ${graph.name} stands for a class: there is no graph to draw.`;
    shown.hidden = !graph.vertices;
    entries();
    picture.reset();
    update();
    below.replaceChildren();
    if (!graph.vertices) return;
    heatMaps(below, data, graph);
    const narrow = data.classes.length <= 12 ? below.appendChild(h("div", { class: "panels two" })) : below;
    pairs(narrow, data, graph);
    communities(narrow, data, graph);
    modularities(below, graph);
  }

  container.append(
    words,
    h(
      "div",
      { class: "controls" },
      choice(
        "Layer",
        graphs.map((graph, i) => [i, data.layers[graph.layer].name]),
        first,
        (value) => show(Number(value)),
      ),
      choice(
        "Colour by",
        [
          ["class", "class"],
          ["community", "community"],
        ],
        "class",
        colourBy,
      ),
      h("label", { class: "control wide" }, edges, slider),
      h("button", { type: "button", onclick: () => picture.reset() }, "Reset view"),
    ),
    none,
    shown,
    below,
  );
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (state.kept !== null) keep(null);
    else if (document.activeElement === picture.canvas) picture.canvas.blur(); // the wheel scrolls the page again
  });
  show(first);
  picture.start();
  whenColoursChange(() => (entries(), update()));
}

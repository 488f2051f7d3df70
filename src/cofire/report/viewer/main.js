// Opens the table of numbers, then draws one section after the other. A section that fails says so and stops nobody.

import { open } from "./data.js";
import { h, hideTip } from "./dom.js";
import { count } from "./numbers.js";
import * as overview from "./sections/overview.js";
import * as measures from "./sections/measures.js";
import * as firing from "./sections/firing.js";
import * as softmax from "./sections/softmax.js";
import * as graph from "./sections/graph.js";
import * as units from "./sections/units.js";
import * as maps from "./sections/maps.js";
import * as table from "./sections/table.js";
import * as ablation from "./sections/ablation.js";
import * as boost from "./sections/boost.js";
import * as trust from "./sections/trust.js";
import * as training from "./sections/training.js";
import * as carry from "./sections/carry.js";
import * as reproduction from "./sections/reproduction.js";

const SECTIONS = {
  overview, measures, firing, softmax, graph, units, maps, table, ablation, boost, trust, training, carry, reproduction,
};

function heading(meta) {
  const { model, data } = meta.reproduction;
  const { samples, layers, units } = meta.overview;
  const what = [
    model.name,
    [data.name, data.split].filter(Boolean).join(" "),
    `${count(units)} units in ${count(layers)} layers, ${count(samples)} samples`,
  ];
  return h(
    "header",
    null,
    h("h1", null, meta.title),
    h("p", { class: "what" }, what.filter(Boolean).join(" · ")),
    meta.notes ? h("p", { class: "notes" }, meta.notes) : null,
  );
}

/** One section: heading, what the numbers say, what was left out, and the drawing. */
function place(key, section, data) {
  const body = h("div", { class: "body" });
  const said = data.findings(...(section.says ?? []));
  const lead = said.map((finding) => h("p", { class: `lead ${finding.level}` }, finding.text));
  const left = (data.meta.left_out[key] ?? []).map((text) => h("p", { class: "left-out" }, text));
  const root = h(
    "section",
    { id: key, tabindex: "-1", "aria-labelledby": `${key}-title` },
    h("h2", { id: `${key}-title` }, section.title),
    lead,
    body,
    left,
  );
  return { root, body };
}

/** Marks the section in view in the list of sections. */
function follow(links) {
  const seen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id);
      const now = Object.keys(SECTIONS).find((key) => seen.has(key));
      for (const [key, link] of Object.entries(links))
        key === now ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    },
    { rootMargin: "-20% 0px -60% 0px" },
  );
  document.querySelectorAll("section").forEach((section) => watch.observe(section));
}

async function start() {
  const main = document.getElementById("main");
  const meta = JSON.parse(document.getElementById("meta").textContent);
  main.append(heading(meta));
  if (typeof DecompressionStream === "undefined") {
    main.append(
      h(
        "p",
        { class: "gone" },
        `This browser is too old for this page (it needs one of 2023 or later). The numbers are in ${meta.numbers_file}.`,
      ),
    );
    return;
  }
  const data = await open(meta, document.getElementById("data").textContent);
  const links = {};
  for (const [key, section] of Object.entries(SECTIONS)) {
    const { root, body } = place(key, section, data);
    main.append(root);
    links[key] = h("a", { href: `#${key}` }, section.title);
    try {
      if (!data.layers.length && section.needsLayers !== false) throw new Error("there is no layer");
      section.draw(body, data);
    } catch (error) {
      console.error(`section ${key}:`, error);
      body.replaceChildren(
        h(
          "p",
          { class: "gone" },
          `This section could not be drawn: ${error.message}. Its numbers are in ${meta.numbers_file}.`,
        ),
      );
    }
  }
  document.getElementById("nav").append(
    h("p", { class: "brand" }, "cofire"),
    h(
      "ol",
      null,
      Object.values(links).map((link) => h("li", null, link)),
    ),
  );
  main.append(
    h(
      "footer",
      null,
      `Every number on this page is in ${meta.numbers_file}, beside it. The page fetches nothing and sends nothing.`,
    ),
  );
  follow(links);
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  document.documentElement.dataset.ready = "yes";
}

start();

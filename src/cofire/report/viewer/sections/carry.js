// How far what was measured carries over to test data.

import { bytes, ink } from "../colours.js";
import { choice, figure, h, hideTip, responsive, sharp, showTip, tipped, textWidth } from "../dom.js";
import { pairs } from "../marks.js";
import { count, exact, extent, linear, number, percent, tickText, ticks } from "../numbers.js";

export const title = "Train against test";
export const says = ["accuracy", "carry"];

/** Accuracy of each class on both sets, as pairs of dots. */
function accuracies(container, data) {
  const { names, accuracy, test_accuracy: tested, counts, test_counts: tests } = data.meta.classes;
  if (!accuracy || !tested) {
    container.append(
      h("p", { class: "absent" }, "Accuracy by class is not here: predictions were not recorded on both sets."),
    );
    return;
  }
  const gap = (c) => (accuracy[c] === null || tested[c] === null ? -1 : Math.abs(accuracy[c] - tested[c]));
  let order = names.map((_, c) => c);
  const most = 24;
  const cut = order.length > most;
  if (cut) order = order.sort((a, b) => gap(b) - gap(a)).slice(0, most);
  const drawing = h("div", { class: "drawing" });
  const words = `Recorded samples (filled) and test samples (ring), share of the class that is classified correctly.${cut ? ` The ${most} classes with the largest gap of ${count(names.length)}.` : ""}`;
  container.append(figure("Accuracy by class", words, drawing));
  pairs(
    drawing,
    "Accuracy by class on both sets",
    order.map((c) => ({
      name: names[c],
      first: accuracy[c],
      second: tested[c],
      lines: [
        `class ${names[c]}`,
        [`recorded, of ${count(counts[c])}`, exact(accuracy[c])],
        [`test, of ${count(tests[c])}`, exact(tested[c])],
      ],
    })),
    "share correct",
  );
}

/** A relative change as a signed percentage. */
function changed(shift) {
  if (shift === null || Math.abs(shift) > 9.99) return "";
  const whole = Math.round(100 * shift);
  return `${whole > 0 ? "+" : whole < 0 ? "−" : "±"}${Math.abs(whole)} %`;
}

/** Rank correlations of per-unit measures, layers down and measures across. */
function correlations(container, data) {
  const rows = data.meta.carry;
  const measures = data.measures.filter((measure) => rows.some((row) => row.measure === measure.name));
  const find = new Map(rows.map((row) => [`${row.layer}\n${row.measure}`, row]));
  const cell = (layer, measure) => {
    const row = find.get(`${layer.name}\n${measure.name}`);
    if (!row || row.spearman === null) return h("td", { class: "absent-cell" }, "–");
    const shift = row.mean ? (row.test_mean - row.mean) / Math.abs(row.mean) : null;
    const node = h(
      "td",
      { class: "shade", "data-value": row.spearman },
      h("span", null, row.spearman.toFixed(2)),
      h("small", null, changed(shift)),
    );
    node.style.setProperty("--share", `${Math.max(0, row.spearman) * 100}%`);
    return tipped(node, [
      `${measure.label} in ${layer.name}`,
      ["rank correlation", exact(row.spearman)],
      ["correlation", exact(row.pearson)],
      ["mean, recorded", exact(row.mean)],
      ["mean, test", exact(row.test_mean)],
      `${count(row.units)} units live in both; ${measure.unit}`,
    ]);
  };
  container.append(
    figure(
      "Do the same units stand out on test data?",
      `Rank correlation, over units that fire in both sets, of each unit's value on ${count(data.meta.overview.samples)} recorded and ${count(data.meta.test_samples)} test samples; beside it the change of the layer's mean. Activation entropy and information depend on the number of samples, so part of such a change is that.`,
      h(
        "div",
        { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Correlations by layer and measure" },
        h(
          "table",
          { class: "matrix" },
          h(
            "thead",
            null,
            h(
              "tr",
              null,
              h("th", { class: "text" }, "Layer"),
              measures.map((measure) => h("th", null, measure.label)),
            ),
          ),
          h(
            "tbody",
            null,
            data.layers.map((layer) =>
              h(
                "tr",
                null,
                h("th", { scope: "row", class: "text" }, layer.name),
                measures.map((measure) => cell(layer, measure)),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Every unit of a layer as a point: its value on recorded and on test data. */
function scatter(container, data) {
  const names = data.measures.filter((measure) => data.has(`test/${measure.name}`) && data.has(`unit/${measure.name}`));
  if (!names.length || !data.layers.length) return;
  const state = {
    layer: data.layers.length - 1,
    measure: names.some((m) => m.name === "mutual_information") ? "mutual_information" : names[0].name,
  };
  const canvas = h("canvas", { role: "img" });
  const place = h("div", { class: "drawing scatter" }, canvas);
  const note = h("span");
  let again = () => {};
  const pick = (key, cast) => (value) => ((state[key] = cast(value)), again());
  const controls = h(
    "div",
    { class: "controls" },
    choice(
      "Layer",
      data.layers.map((layer, i) => [i, layer.name]),
      state.layer,
      pick("layer", Number),
    ),
    choice(
      "Measure",
      names.map((measure) => [measure.name, measure.label]),
      state.measure,
      pick("measure", String),
    ),
  );
  const frame = figure("Unit by unit", null, controls, place);
  frame.querySelector("figcaption").append(note);
  container.append(frame);
  let points = [];
  again = responsive(place, (width) => {
    const size = Math.min(width, 420);
    const layer = data.layers[state.layer];
    const measure = data.measure(state.measure);
    const [mine, theirs, dead] = [`unit/${state.measure}`, `test/${state.measure}`, "unit/dead"].map((name) =>
      data.column(name),
    );
    const rows = Array.from({ length: layer.shown_units }, (_, k) => layer.first + k).filter(
      (row) => !dead.at(row) && mine.at(row) !== null && theirs.at(row) !== null,
    );
    const domain = extent(rows.flatMap((row) => [mine.at(row), theirs.at(row)]));
    const marks = ticks(domain[0], domain[1], 5);
    const texts = tickText(marks);
    const left = Math.max(...texts.map((text) => textWidth(text, 11))) + 12;
    const bottom = size - 36;
    const x = linear(domain[0], domain[1], left, size - 8);
    const y = linear(domain[0], domain[1], bottom, 20);
    const context = sharp(canvas, size, size);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.strokeStyle = ink("grid");
    context.fillStyle = ink("muted");
    marks.forEach((mark, i) => {
      context.strokeRect(left, y(mark), size - 8 - left, 0);
      context.textAlign = "right";
      context.fillText(texts[i], left - 6, y(mark) + 4);
      context.textAlign = "center";
      context.fillText(texts[i], x(mark), bottom + 15);
    });
    context.textAlign = "left";
    context.fillText(`test, ${measure.unit}`, 0, 11);
    context.textAlign = "center";
    context.fillText(`recorded, ${measure.unit}`, (left + size) / 2, size - 4);
    context.strokeStyle = ink("muted");
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(x(domain[0]), y(domain[0]));
    context.lineTo(x(domain[1]), y(domain[1]));
    context.stroke();
    context.setLineDash([]);
    const [r, g, b] = bytes("second");
    context.fillStyle = `rgba(${r}, ${g}, ${b}, ${rows.length > 800 ? 0.35 : 0.6})`;
    points = rows.map((row) => [x(mine.at(row)), y(theirs.at(row)), row]);
    for (const [px, py] of points) {
      context.beginPath();
      context.arc(px, py, 3, 0, 7);
      context.fill();
    }
    canvas.setAttribute("aria-label", `${measure.label} of ${rows.length} units on recorded and on test data`);
    note.textContent = `${measure.label} of the ${count(rows.length)} live units of ${layer.name}. On the dashed line both are the same. Click on a point to see the unit.`;
  });
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect();
    let best = [144, null];
    for (const [px, py, row] of points) {
      const far = (px - event.clientX + box.left) ** 2 + (py - event.clientY + box.top) ** 2;
      if (far < best[0]) best = [far, row];
    }
    return best[1];
  };
  canvas.addEventListener("pointermove", (event) => {
    const row = nearest(event);
    if (row === null) return hideTip();
    const { layer, unit } = data.unitAt(row);
    showTip(event.clientX, event.clientY, [
      `unit ${unit} of ${data.layers[layer].name}`,
      ["recorded", exact(data.column(`unit/${state.measure}`).at(row))],
      ["test", exact(data.column(`test/${state.measure}`).at(row))],
    ]);
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const row = nearest(event);
    if (row !== null) data.pick(data.unitAt(row).layer, data.unitAt(row).unit, true);
  });
}

export function draw(container, data) {
  if (!data.meta.carry) {
    container.append(
      h(
        "p",
        { class: "absent" },
        "There is nothing to compare with: the report was made without statistics of test data. cofire.report.write takes them as test=, and cofire report as --test.",
      ),
    );
    const own = data.meta.overview.accuracy;
    if (own !== null)
      container.append(
        h(
          "p",
          { class: "note" },
          `On the ${count(data.meta.overview.samples)} recorded samples, accuracy is ${percent(own)}; their statistics cannot say how it is on others.`,
        ),
      );
    return;
  }
  correlations(container, data);
  const two = container.appendChild(h("div", { class: "panels two" }));
  scatter(two, data);
  accuracies(two, data);
}

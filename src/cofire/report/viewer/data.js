// The numbers of the report: one table of bytes, its columns decoded when they are first asked for.

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array };
const MISSING = { u1: 2 ** 8 - 1, u2: 2 ** 16 - 1, u4: 2 ** 32 - 1, i1: -(2 ** 7), i2: -(2 ** 15), i4: -(2 ** 31) };

/** Unpacks base64 text of gzip bytes. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** A column: whole numbers, each to be divided by `per`; the type's extreme value is a number that is not known. */
class Column {
  constructor(header, buffer) {
    const length = header.shape.reduce((a, b) => a * b, 1);
    this.values = new ARRAYS[header.type](buffer, header.at, length);
    this.per = header.per;
    this.shape = header.shape;
    this.missing = MISSING[header.type];
    this.width = header.shape.slice(1).reduce((a, b) => a * b, 1);
  }

  /** The number at a place of the flat array, null if it is not known. */
  at(index) {
    const stored = this.values[index];
    return stored === this.missing || stored === undefined ? null : stored / this.per;
  }

  /** The numbers of one row. */
  row(index) {
    return Array.from({ length: this.width }, (_, i) => this.at(index * this.width + i));
  }
}

/** Opens the table that the page carries. */
export async function open(meta, text) {
  const buffer = await unpack(text.trim());
  const columns = new Map();
  const listeners = [];
  const data = {
    meta,
    layers: meta.layers,
    classes: meta.classes.names,
    measures: meta.glossary.measures,
    picked: { layer: 0, unit: 0 },
    has: (name) => name in meta.columns,
    column(name) {
      if (!columns.has(name)) columns.set(name, new Column(meta.columns[name], buffer));
      return columns.get(name);
    },
    /** Where a unit stands in a list of chosen units; -1 if it is not among them. Without a list all units are there. */
    place(list, layer, unit) {
      const name = `${list}/${layer}`;
      if (!(name in meta.columns)) return unit;
      return search(data.column(name).values, unit, 0, data.column(name).values.length);
    },
    /** The row of a unit in the table of units; -1 if it was left out. */
    unitRow(layer, unit) {
      const { first, shown_units: shown, units } = meta.layers[layer];
      if (shown === units) return first + unit;
      return search(data.column("unit/unit").values, unit, first, first + shown);
    },
    /** Layer and unit of a row in the table of units. */
    unitAt(row) {
      let low = 0;
      let high = meta.layers.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (meta.layers[middle].first <= row) low = middle;
        else high = middle - 1;
      }
      return { layer: low, unit: data.column("unit/unit").values[row] };
    },
    onPick: (listener) => listeners.push(listener),
    pick(layer, unit, jump = false) {
      data.picked = { layer, unit };
      listeners.forEach((listener) => listener(data.picked));
      const section = jump ? document.getElementById("units") : null;
      section?.focus({ preventScroll: true });
      section?.scrollIntoView({ block: "start" });
    },
    findings: (...kinds) => meta.findings.filter((finding) => kinds.includes(finding.kind)),
    /** The layer to show first: the one whose units tell most about the class. */
    start: meta.summary.reduce(
      (best, row, i) => ((row.mutual_information ?? -1) > (meta.summary[best].mutual_information ?? -1) ? i : best),
      0,
    ),
    measure: (name) => meta.glossary.measures.find((row) => row.name === name),
  };
  return data;
}

function search(sorted, wanted, low, high) {
  const end = high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low < end && sorted[low] === wanted ? low : -1;
}

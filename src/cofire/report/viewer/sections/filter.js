// The small language of the table's filter: words, and conditions such as `class_selectivity > 0.5`, joined by "and".

const CONDITION = /^([\w ]+?)\s*(<=|>=|!=|=|<|>)\s*(.+)$/;
const plain = (text) => text.trim().toLowerCase().replaceAll(" ", "_");

/** A test of rows for what was typed, or what is wrong with it. */
export function matcher(words, columns) {
  const tests = [];
  for (const part of words
    .split(/\s+and\s+|,|&+/i)
    .map((text) => text.trim())
    .filter(Boolean)) {
    const condition = part.match(CONDITION);
    const made = condition ? compared(columns, ...condition.slice(1)) : worded(columns, part);
    if (typeof made === "string") return { error: made, test: () => true };
    tests.push(made);
  }
  return { error: null, test: (row) => tests.every((test) => test(row)) };
}

function worded(columns, text) {
  const wanted = text.toLowerCase();
  const [layer, unit, preferred] = ["layer", "unit", "preferred_class"].map((name) =>
    columns.find((column) => column.name === name),
  );
  return (row) =>
    layer.text(row).toLowerCase().includes(wanted) ||
    unit.text(row) === wanted ||
    preferred.text(row).toLowerCase() === wanted;
}

function compared(columns, name, sign, right) {
  const column = columns.find((entry) => plain(entry.name) === plain(name) || plain(entry.label) === plain(name));
  if (!column)
    return `No column is called “${name.trim()}”. There are ${columns.map((entry) => entry.name).join(", ")}.`;
  const wanted = right.trim().replace(/^(["'])(.*)\1$/, "$2");
  if (column.kind === "text") {
    if (sign !== "=" && sign !== "!=") return `${column.name} is a name: compare it with = or !=.`;
    return (row) => (column.text(row).toLowerCase() === wanted.toLowerCase()) === (sign === "=");
  }
  const number =
    column.kind === "flag" ? { yes: 1, true: 1, 1: 1, no: 0, false: 0, 0: 0 }[wanted.toLowerCase()] : Number(wanted);
  if (number === undefined || Number.isNaN(number) || wanted === "") {
    return column.kind === "flag" ? `${column.name} is yes or no, not “${wanted}”.` : `“${wanted}” is not a number.`;
  }
  const test = {
    "<": (a) => a < number,
    ">": (a) => a > number,
    "<=": (a) => a <= number,
    ">=": (a) => a >= number,
    "=": (a) => a === number,
    "!=": (a) => a !== number,
  }[sign];
  return (row) => {
    const value = column.value(row);
    return value !== null && test(value);
  };
}

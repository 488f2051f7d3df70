// A co-firing graph as the page holds it: plain values, and columns as arrays; and what its groups are called.

/** One graph of the page: its plain values, and its columns as arrays. */
export function graphAt(data, index) {
  const about = data.meta.graphs[index];
  const column = (name) => data.column(`graph/${index}/${name}`);
  const list = (name) => Array.from(column(name).values, (_, i) => column(name).at(i));
  const members = column("members");
  const weight = list("weight");
  return {
    ...about,
    index,
    name: data.layers[about.layer].name,
    unit: list("unit"),
    x: list("x"),
    y: list("y"),
    strength: list("strength"),
    from: list("from"),
    to: list("to"),
    weight,
    groups: { class: list("class"), community: list("community") },
    represents: (c, vertex) => members.at(c * about.vertices + vertex) === 1,
    /** How many of the edges, which come strongest first, have this weight or more. */
    strong(least) {
      let [low, high] = [0, weight.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (weight[middle] >= least - 1e-9) low = middle + 1;
        else high = middle;
      }
      return low;
    },
  };
}

/** What a group of vertices is called. */
export function groupName(data, by, group) {
  return by === "class" ? data.classes[group] : `community ${group}`;
}

/** How many groups there can be, empty classes included. */
export function groupCount(data, graph, by) {
  return by === "class" ? data.classes.length : graph.communities.count;
}

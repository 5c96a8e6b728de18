/**
 * Nodes in rows, for the pictures in files: the build of this module runs outside of a browser, see
 * writers/layout/dagre.py. Texts in and out are JSON.
 */

import dagre from "@dagrejs/dagre";

const DENSE = 3;

/** @param {string} asked {nodes: [width, height][], edges: [from, to, weight][]}
 * @returns {string} {nodes: [x, y][], edges: [x, y][][]}, the middles of the nodes */
function rowsOf(asked) {
  /** @type {{nodes: [number, number][], edges: [number, number, number][]}} */
  const { nodes, edges } = JSON.parse(asked);
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 20, ranksep: 22, edgesep: 12 });
  nodes.forEach(([width, height], number) => graph.setNode(String(number), { width, height }));
  edges.forEach(([from, to, weight], number) => graph.setEdge(String(from), String(to), { weight }, String(number)));
  // With that many edges no order is a good one: one need not be looked for long.
  dagre.layout(graph, { disableOptimalOrderHeuristic: edges.length > DENSE * nodes.length });
  return JSON.stringify({
    nodes: nodes.map((_, number) => {
      const { x, y } = graph.node(String(number));
      return [x, y];
    }),
    edges: edges.map(([from, to], number) =>
      graph.edge(String(from), String(to), String(number)).points.map((/** @type {{x: number, y: number}} */ { x, y }) => [x, y])),
  });
}

// dagre copies plain data with it, which engines outside of browsers need not have.
globalThis.structuredClone ??= (/** @type {any} */ value) => JSON.parse(JSON.stringify(value));
Object.assign(globalThis, { rowsOf });

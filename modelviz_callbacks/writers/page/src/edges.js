/**
 * The edges between the boxes in an open box, and where tensors enter and leave it.
 *
 * A tensor that is read elsewhere in the graph crosses the borders of boxes at ports; so each open
 * box can be laid out by itself.
 */

import { carriedIn } from "./carried.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {object} Edge
 * @property {string} from id of a box in it, or of an entry (`in:3`)
 * @property {string} to id of a box in it, or of an exit (`out:5`)
 * @property {number[]} tensors
 * @property {boolean} skip whether it rejoins what went a longer way
 *
 * @typedef {{id: string, tensors: number[]}} Gate tensors that take one way are one
 *
 * @typedef {object} Wiring
 * @property {Box[]} boxes the children, and the parameters that ops among them read
 * @property {Edge[]} edges
 * @property {Gate[]} entries where tensors enter
 * @property {Gate[]} exits where tensors leave
 * @property {import("./carried.js").Carried[]} carried what a step of a loop hands to the next one
 * @property {Set<string>} loops ids of repeats in which each copy reads what the one before made
 */

/** Floating point: what is no mask and no position. @param {string} dtype */
const isFloat = (dtype) => /^(float|bfloat|complex)/.test(dtype);

/** @param {import("./tree.js").Tree} tree @param {Box} container @param {boolean} isJoined whether
 *   tensors that enter or leave together are one line @returns {Wiring} */
export function wire(tree, container, isJoined) {
  const { graph } = tree;
  const children = tree.childrenOf(container);
  const nodes = tree.nodesOf(container);
  const inside = new Set(nodes);
  /** @type {Map<string, Edge>} */ const edges = new Map();
  /** @type {Map<number, Box>} */ const held = new Map();
  /** @type {Set<number>} */ const entries = new Set();
  /** @type {Set<number>} */ const exits = new Set();
  const add = (/** @type {string} */ from, /** @type {string} */ to, /** @type {number} */ tensor) => {
    const key = `${from}\n${to}`;
    const edge = edges.get(key);
    if (!edge) edges.set(key, { from, to, tensors: [tensor], skip: false });
    else if (!edge.tensors.includes(tensor)) edge.tensors.push(tensor);
  };
  for (const node of nodes) {
    const child = tree.isHidden(node) ? null : tree.childWith(container, node);
    if (!child) continue;
    for (const tensor of graph.reads[node]) {
      const producer = graph.producer[tensor];
      if (tree.isHidden(producer)) continue;
      if (graph.isHeld(producer)) {
        if (isGiven(tree, child, node, tensor))
          add(heldBox(tree, container, held, producer).id, child.id, tensor);
      } else if (inside.has(producer)) {
        const source = tree.childWith(container, producer);
        if (source && source !== child) add(source.id, child.id, tensor);
      } else {
        entries.add(tensor);
        add(`in:${tensor}`, child.id, tensor);
      }
    }
    const { first, outs } = graph.nodes[node];
    for (let tensor = first; tensor < first + outs; tensor++) {
      if (graph.readers[tensor].some((reader) => !inside.has(reader) && !tree.isHidden(reader))) {
        exits.add(tensor);
        add(child.id, `out:${tensor}`, tensor);
      }
    }
  }
  const gates = isJoined ? joined(tree, edges, inside) : null;
  const found = [...edges.values()];
  const boxes = withHeld(children, [...held.values()], found);
  markSkips(graph, boxes, found);
  const alone = (/** @type {string} */ kind) => (/** @type {number} */ tensor) => ({ id: `${kind}:${tensor}`, tensors: [tensor] });
  return { boxes, edges: found, loops: loopsOf(tree, children), carried: carriedIn(tree, container),
    entries: gates ? gates.entries : [...entries].map(alone("in")),
    exits: gates ? gates.exits : [...exits].map(alone("out")) };
}

/** Joins entries that come from one scope and go to the same boxes, and exits likewise; the edges
 * are changed. @param {import("./tree.js").Tree} tree @param {Map<string, Edge>} edges
 * @param {Set<number>} inside the nodes in the box */
function joined(tree, edges, inside) {
  const { graph } = tree;
  /** @type {Map<string, Edge[]>} by the tensor's own gate */ const at = new Map();
  for (const edge of edges.values())
    for (const id of [edge.from, edge.to])
      if (/^(in|out):\d+$/.test(id)) at.set(id, [...(at.get(id) || []), edge]);
  /** @type {Map<string, Gate>} */ const gates = new Map();
  for (const [id, some] of at) {
    const tensor = Number(id.slice(id.indexOf(":") + 1));
    const isEntry = id.startsWith("in:");
    const ends = some.map((edge) => (isEntry ? edge.to : edge.from)).sort().join("\n");
    const beyond = isEntry ? [graph.producer[tensor]] : graph.readers[tensor].filter((reader) => !inside.has(reader));
    const homes = [...new Set(beyond.map((node) => (graph.isCall(node) ? `${graph.nodes[node].home}` : graph.nodes[node].kind === "output" ? "output" : `:${node}`)))];
    const key = `${isEntry}\n${homes.sort().join()}\n${ends}`;
    const gate = gates.get(key);
    if (!gate) {
      gates.set(key, { id, tensors: [tensor] });
      continue;
    }
    gate.tensors.push(tensor);
    for (const edge of some) {
      edges.delete(`${edge.from}\n${edge.to}`);
      edges.get(isEntry ? `${gate.id}\n${edge.to}` : `${edge.from}\n${gate.id}`)?.tensors.push(tensor);
    }
  }
  const all = [...gates.values()];
  return { entries: all.filter(({ id }) => id.startsWith("in:")), exits: all.filter(({ id }) => id.startsWith("out:")) };
}

/** Whether a parameter is drawn beside a child: it is an op that reads it, or a module given it.
 * @param {import("./tree.js").Tree} tree @param {Box} child @param {number} node @param {number} tensor */
function isGiven(tree, child, node, tensor) {
  if (child.kind === "op" || child.kind === "layout") return true;
  const item = child.items[0];
  if (child.items.length !== 1) return false;
  if (item >= 0) return child.kind === "repeat";
  return tree.graph.scopes[-item].inputs.some((port) => port.tensor === tensor);
}

/** @param {import("./tree.js").Tree} tree @param {Box} container @param {Map<number, Box>} held
 * @param {number} node */
function heldBox(tree, container, held, node) {
  let box = held.get(node);
  if (!box) {
    const { kind, path, label } = tree.graph.nodes[node];
    const id = `${container.id}|${tree.graph.nodeName(node)}`;
    const title = path ? path.slice(path.lastIndexOf(".") + 1) : label;
    box = tree.byId.get(id) || tree._box(id, "held", container, [node], container.scope,
      { title, label: title === kind ? "" : kind });
    held.set(node, box);
  }
  return box;
}

/** Each parameter right before its first reader. @param {Box[]} children @param {Box[]} held
 * @param {Edge[]} edges */
function withHeld(children, held, edges) {
  /** @type {Map<string, Box[]>} */ const before = new Map();
  for (const box of held) {
    const reader = edges.find((edge) => edge.from === box.id)?.to || "";
    before.set(reader, [...(before.get(reader) || []), box]);
  }
  return children.flatMap((child) => [...(before.get(child.id) || []), child]);
}

/** Marks the edges beside which there is a longer way to the same end.
 * @param {import("./graph.js").Graph} graph @param {Box[]} boxes @param {Edge[]} edges */
function markSkips(graph, boxes, edges) {
  /** @type {Map<string, string[]>} */ const following = new Map();
  /** @type {Map<string, number>} */ const into = new Map();
  for (const { from, to } of edges) {
    following.set(from, [...(following.get(from) || []), to]);
    into.set(to, (into.get(to) || 0) + 1);
  }
  const kinds = new Map(boxes.map((box) => [box.id, box.kind]));
  for (const edge of edges) {
    const [start, end] = [kinds.get(edge.from), kinds.get(edge.to)];
    if (start === "held" || end === "ends" || end === "output" || (into.get(edge.to) || 0) < 2) continue;
    if (!edge.tensors.some((tensor) => isFloat(graph.spec(tensor).dtype))) continue;
    edge.skip = hasDetour(following, edge);
  }
}

/** @param {Map<string, string[]>} following @param {Edge} edge */
function hasDetour(following, edge) {
  const seen = new Set((following.get(edge.from) || []).filter((id) => id !== edge.to));
  const stack = [...seen];
  while (stack.length) {
    for (const id of following.get(/** @type {string} */ (stack.pop())) || []) {
      if (id === edge.to) return true;
      if (!seen.has(id)) {
        seen.add(id);
        stack.push(id);
      }
    }
  }
  return false;
}

/** @param {import("./tree.js").Tree} tree @param {Box[]} children */
function loopsOf(tree, children) {
  const { graph } = tree;
  /** @type {Set<string>} */ const found = new Set();
  for (const box of children) {
    if (box.kind !== "repeat") continue;
    const first = new Set(tree.nodesOf(box));
    const second = box.copies[1].flatMap((item) => graph.opsIn(item));
    const reads = second.flatMap((node) => graph.reads[node]);
    if (reads.some((tensor) => first.has(graph.producer[tensor]))) found.add(box.id);
  }
  return found;
}

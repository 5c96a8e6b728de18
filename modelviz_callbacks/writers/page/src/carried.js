/** What each step of a loop reads of the one before: edges back to boxes of the same step. */

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {[number, number]} Point
 * @typedef {{from: string, to: string, tensors: number[]}} Carried by the ids of boxes
 * @typedef {{x: number, y: number, w: number, h: number}} Rectangle
 */

/** Room beside the boxes for the first such edge, and for each that follows. */
const BESIDE = 20, LANE = 9;

/** The edges back in an open box; none if it is no loop.
 * @param {import("./tree.js").Tree} tree @param {Box} container @returns {Carried[]} */
export function carriedIn(tree, container) {
  const { graph } = tree;
  if (container.kind !== "repeat" || container.copies.length < 2 || !isLoop(tree, container)) return [];
  const [first, second] = container.copies.slice(0, 2).map((copy) => copy.flatMap((item) => graph.opsIn(item)));
  const made = new Set(first);
  /** @type {Map<string, Carried>} */ const found = new Map();
  second.forEach((node, place) => {
    for (const tensor of graph.reads[node]) {
      const producer = graph.producer[tensor];
      if (!made.has(producer) || tree.isHidden(producer) || tree.isHidden(first[place])) continue;
      const from = tree.childWith(container, producer)?.id, to = tree.childWith(container, first[place])?.id;
      if (!from || !to) continue;
      const edge = found.get(`${from}\n${to}`) || { from, to, tensors: [] };
      if (!edge.tensors.includes(tensor)) edge.tensors.push(tensor);
      found.set(`${from}\n${to}`, edge);
    }
  });
  return [...found.values()];
}

/** Whether it is a body that runs again and again, not blocks with weights of their own.
 * @param {import("./tree.js").Tree} tree @param {Box} box */
function isLoop({ graph }, box) {
  if (box.shared) return true;
  return box.items.every((item) => item >= 0
    && graph.reads[item].every((tensor) => graph.nodes[graph.producer[tensor]].kind !== "parameter"));
}

/** Lines beside the boxes, from the lower end of one to the upper end of another.
 * @param {Carried[]} carried @param {Map<string, Rectangle>} drawn
 * @param {number} right where the boxes and edges end @returns {(Carried & {points: Point[]})[]} */
export function linesBeside(carried, drawn, right) {
  return carried.flatMap((edge, lane) => {
    const source = drawn.get(edge.from), target = drawn.get(edge.to);
    if (!source || !target) return [];
    const x = right + BESIDE + LANE * lane;
    const start = source.y + source.h * 0.75, end = target.y + target.h * 0.25;
    return [{ ...edge, points: [[source.x + source.w, start], [x, start], [x, end], [target.x + target.w, end]] }];
  });
}

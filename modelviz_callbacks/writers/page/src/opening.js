/** Which boxes are open at first, and at a level: as much as stays readable. */

import { scopeOf } from "./tree.js";

/** @typedef {import("./tree.js").Box} Box */

/** More boxes than this are not opened at once. */
export const MOST_OPENED = 2500;
/** So many times is tried what fits; a slow machine may stop before, at the cost of another first
 * sight. */
const MOST_TRIES = 30, PATIENCE_MS = 1200;
/** Lengths from which ways are wrapped, to be tried. */
const WRAPS = [1e9, 1000, 640];

/**
 * Opens what most happens in first, all of a class or one of it, while the whole stays readable.
 *
 * @param {import("./layout.js").Layouts} layouts
 * @param {Box} container
 * @param {{width: number, height: number, least: number}} frame room, and the smallest scale
 * @param {(box: Box) => number} weight how much happens in a box; one with 0 is not opened
 * @returns {Set<string>} ids
 */
export function readable(layouts, container, frame, weight) {
  const { tree } = layouts;
  const end = performance.now() + PATIENCE_MS;
  const scale = (/** @type {Set<string>} */ opened, /** @type {number} */ wrapAt) => {
    layouts.wrapAt = wrapAt;
    const { w, h } = layouts.of(container, opened, true);
    return Math.min(frame.width / (w + 20), frame.height / (h + 20), 1.25);
  };
  const best = (/** @type {Set<string>} */ opened) => {
    const scales = WRAPS.map((wrapAt) => ({ wrapAt, scale: scale(opened, wrapAt) }));
    return scales.reduce((one, two) => (two.scale > one.scale * 1.12 ? two : one));
  };
  /** @type {Set<string>} */ let opened = new Set();
  let { wrapAt } = best(opened);
  /** @type {Set<string>} */ const refused = new Set();
  let tries = 0;
  while (performance.now() < end && tries < MOST_TRIES) {
    const alike = heaviest(tree, closedIn(layouts, container, opened)
      .filter((box) => !refused.has(box.id) && !tree.isLeaf(box) && weight(box) > 0), weight);
    if (!alike.length) break;
    for (const some of alike.length > 1 ? [alike, alike.slice(0, 1)] : [alike]) {
      const more = new Set([...opened, ...some.map((box) => box.id)]);
      tries++;
      const found = best(more);
      if (found.scale < frame.least) continue;
      [opened, wrapAt] = [more, found.wrapAt];
      break;
    }
    for (const box of alike) if (!opened.has(box.id)) refused.add(box.id);
  }
  layouts.wrapAt = wrapAt;
  return opened;
}

/** The boxes of the kind that most happens in. @param {import("./tree.js").Tree} tree
 * @param {Box[]} boxes @param {(box: Box) => number} weight */
function heaviest(tree, boxes, weight) {
  /** @type {Map<string, {boxes: Box[], weight: number}>} */ const kinds = new Map();
  for (const box of boxes) {
    const kind = kindOf(tree, box);
    const known = kinds.get(kind) || { boxes: [], weight: 0 };
    known.boxes.push(box);
    known.weight += weight(box);
    kinds.set(kind, known);
  }
  return [...kinds.values()].sort((one, two) => two.weight - one.weight)[0]?.boxes || [];
}

/** @param {import("./tree.js").Tree} tree @param {Box} box */
function kindOf(tree, box) {
  const scope = scopeOf(box);
  return scope ? tree.graph.scopes[scope].cls : `${box.kind} ${box.title}`;
}

/** The boxes in sight that are closed and can be opened.
 * @param {import("./layout.js").Layouts} layouts @param {Box} container @param {Set<string>} opened
 * @returns {Box[]} */
export function closedIn(layouts, container, opened) {
  const { tree } = layouts;
  return tree.childrenOf(container).flatMap((box) => {
    if (opened.has(box.id)) return closedIn(layouts, box, opened);
    return tree.canOpen(box) ? [box] : [];
  });
}

/**
 * @param {import("./layout.js").Layouts} layouts
 * @param {Box} container
 * @param {number} level how many levels of boxes are seen; Infinity: all
 * @returns {{opened: Set<string>, complete: boolean}}
 */
export function atLevel(layouts, container, level) {
  const { tree } = layouts;
  /** @type {Set<string>} */ const opened = new Set();
  let seen = tree.childrenOf(container).length;
  /** @type {[Box, number][]} */ const queue = tree.childrenOf(container).map((box) => [box, 1]);
  for (const [box, depth] of queue) {
    const isPlain = box.kind === "layout" || box.kind === "ends" || (tree.isLeaf(box) && box.kind !== "part" && level !== Infinity);
    if (depth >= level || isPlain || !tree.canOpen(box)) continue;
    const children = tree.childrenOf(box);
    if (level === Infinity && children.length === 1 && !tree.canOpen(children[0]) && tree.isLeaf(box)) continue;
    if (seen + children.length > MOST_OPENED) return { opened, complete: false };
    seen += children.length;
    opened.add(box.id);
    for (const child of children) queue.push([child, depth + 1]);
  }
  return { opened, complete: true };
}

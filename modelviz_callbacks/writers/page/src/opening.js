/** Which boxes are open at first, and at a level: as much as stays readable. */

import { scopeOf } from "./tree.js";

/** @typedef {import("./tree.js").Box} Box */

/** More boxes than this are not opened at once. */
export const MOST_OPENED = 2500;
const PATIENCE_MS = 350;

/**
 * Opens the outermost boxes first, all of a class or one of it, while the whole stays readable.
 *
 * @param {import("./layout.js").Layouts} layouts
 * @param {Box} container
 * @param {{width: number, height: number, least: number}} frame room, and the smallest scale
 * @returns {Set<string>} ids
 */
export function readable(layouts, container, frame) {
  const { tree } = layouts;
  const end = performance.now() + PATIENCE_MS;
  const fits = (/** @type {Set<string>} */ opened) => {
    const { w, h } = layouts.of(container, opened, true);
    return Math.min(frame.width / (w + 20), frame.height / (h + 20)) >= frame.least;
  };
  /** @type {Set<string>} */ let opened = new Set();
  /** @type {Set<string>} */ const refused = new Set();
  while (performance.now() < end) {
    /** @type {Map<string, Box[]>} */ const kinds = new Map();
    for (const box of closedIn(layouts, container, opened)) {
      if (refused.has(box.id) || tree.isLeaf(box)) continue;
      const kind = kindOf(tree, box);
      kinds.set(kind, [...(kinds.get(kind) || []), box]);
    }
    if (!kinds.size) break;
    for (const alike of kinds.values()) {
      for (const some of [alike, alike.slice(0, 1)]) {
        const more = new Set([...opened, ...some.map((box) => box.id)]);
        if (performance.now() < end && fits(more)) {
          opened = more;
          break;
        }
      }
      for (const box of alike) if (!opened.has(box.id)) refused.add(box.id);
    }
  }
  return opened;
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

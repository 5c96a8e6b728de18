/** All that is visible at one place, flat, in coordinates of the whole picture. */

import { FRAME, HEADER } from "./layout.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {[number, number]} Point
 * @typedef {{id: string, box: Box, x: number, y: number, w: number, h: number, depth: number,
 *   open: boolean, lines: import("./layout.js").Line[], loop: boolean, tensor: number|null}} Shape
 * @typedef {{id: string, container: string, from: string, to: string, tensors: number[],
 *   skip: boolean, legs: Point[][], bounds: [number, number, number, number]}} Wire
 * @typedef {{shapes: Shape[], wires: Wire[], w: number, h: number, x: number, y: number,
 *   byId: Map<string, Shape>}} Scene
 */

/** @param {import("./layout.js").Layout} layout @param {Box} container @returns {Scene} */
export function sceneOf(layout, container) {
  /** @type {Scene} */
  const scene = { shapes: [], wires: [], x: 0, y: 0, w: layout.w + FRAME, h: layout.h + FRAME, byId: new Map() };
  add(scene, layout, container, 0, 0, 0);
  for (const shape of scene.shapes) scene.byId.set(shape.id, shape);
  return scene;
}

/** @param {Scene} scene @param {import("./layout.js").Layout} layout @param {Box} container
 * @param {number} left @param {number} top @param {number} depth */
function add(scene, layout, container, left, top, depth) {
  for (const { box, x, y, w, h, open, lines, loop, tensor, inner } of layout.placed) {
    scene.shapes.push({ id: box.id, box, x: left + x, y: top + y, w, h, depth, open, lines, loop, tensor });
    if (inner) {
      // A frame is wider than what is in it where its heading is.
      const slack = (w - inner.w - FRAME) / 2;
      add(scene, inner, box, left + x + Math.max(0, slack), top + y + HEADER, depth + 1);
    }
  }
  for (const { from, to, tensors, skip, legs } of layout.routes) {
    const moved = legs.map((leg) => leg.map(([x, y]) => /** @type {Point} */ ([x + left, y + top])));
    scene.wires.push({
      id: `${container.id}\n${from}\n${to}`, container: container.id, from, to, tensors, skip,
      legs: moved, bounds: boundsOf(moved),
    });
  }
}

/** @param {Point[][]} legs @returns {[number, number, number, number]} */
function boundsOf(legs) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const leg of legs)
    for (const [x, y] of leg) {
      left = Math.min(left, x);
      top = Math.min(top, y);
      right = Math.max(right, x);
      bottom = Math.max(bottom, y);
    }
  return [left, top, right, bottom];
}

/** Moves the whole scene. @param {Scene} scene @param {number} dx @param {number} dy */
export function shift(scene, dx, dy) {
  scene.x += dx;
  scene.y += dy;
  for (const shape of scene.shapes) {
    shape.x += dx;
    shape.y += dy;
  }
  for (const wire of scene.wires) {
    wire.legs = wire.legs.map((leg) => leg.map(([x, y]) => [x + dx, y + dy]));
    const [left, top, right, bottom] = wire.bounds;
    wire.bounds = [left + dx, top + dy, right + dx, bottom + dy];
  }
}

/** A smooth line through points. @param {Point[]} points */
export function pathOf(points) {
  const [first, ...rest] = points;
  let path = `M${at(first)}`;
  if (rest.length === 1) return `${path}L${at(rest[0])}`;
  for (let number = 0; number < rest.length - 1; number++) {
    const [one, two] = [rest[number], rest[number + 1]];
    const isLast = number === rest.length - 2;
    const end = isLast ? two : /** @type {Point} */ ([(one[0] + two[0]) / 2, (one[1] + two[1]) / 2]);
    path += `Q${at(one)} ${at(end)}`;
  }
  return path;
}

/** The tip of an arrow at the end of a line. @param {Point[]} points */
export function headOf(points) {
  const [x, y] = points[points.length - 1];
  const [px, py] = points[points.length - 2];
  const length = Math.hypot(x - px, y - py) || 1;
  const [ux, uy] = [(x - px) / length, (y - py) / length];
  const [bx, by] = [x - 7 * ux, y - 7 * uy];
  return `M${at([x, y])}L${at([bx - 3.4 * uy, by + 3.4 * ux])}L${at([bx + 3.4 * uy, by - 3.4 * ux])}Z`;
}

/** @param {Point} point */
function at([x, y]) {
  return `${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10}`;
}

/** All that is visible at one place, flat, in coordinates of the whole picture. */

import { FRAME, HEADER } from "./layout.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {[number, number]} Point
 * @typedef {{id: string, box: Box, x: number, y: number, w: number, h: number, depth: number,
 *   open: boolean, lines: import("./layout.js").Line[], loop: boolean, tensor: number|null}} Shape
 * @typedef {{id: string, container: string, from: string, to: string, tensors: number[],
 *   skip: boolean, turns: boolean, carried: boolean, legs: Point[][], bounds: [number, number, number, number]}} Wire
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
  for (const { box, x, y, w, h, open, lines, loop, tensor, inner, inset } of layout.placed) {
    // Where the edges back are seen inside, the box needs no sign for them.
    const isTold = inner?.routes.some(({ carried }) => carried);
    scene.shapes.push({ id: box.id, box, x: left + x, y: top + y, w, h, depth, open, lines, loop: loop && !isTold, tensor });
    if (inner) {
      // A frame is wider than what is in it where its heading is.
      add(scene, inner, box, left + x + inset, top + y + HEADER, depth + 1);
    }
  }
  for (const { from, to, tensors, skip, legs, turns, carried } of layout.routes) {
    const moved = legs.map((leg) => leg.map(([x, y]) => /** @type {Point} */ ([x + left, y + top])));
    scene.wires.push({
      id: `${container.id}\n${from}\n${to}${carried ? "\nnext" : ""}`, container: container.id, from, to, tensors,
      skip, turns, carried,
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

/** A line through points, upright where it passes them. @param {Point[]} points */
export function pathOf(points) {
  let path = `M${at(points[0])}`;
  for (let number = 1; number < points.length; number++) {
    const [[x, y], [tx, ty]] = [points[number - 1], points[number]];
    const middle = (y + ty) / 2;
    path += Math.abs(x - tx) < 0.5 ? `L${at([tx, ty])}` : `C${at([x, middle])} ${at([tx, middle])} ${at([tx, ty])}`;
  }
  return path;
}

/** A line along points with round corners. @param {Point[]} points */
export function roundedPath(points) {
  let path = `M${at(points[0])}`;
  for (let number = 1; number < points.length - 1; number++) {
    const [before, corner, after] = [points[number - 1], points[number], points[number + 1]];
    const one = Math.hypot(corner[0] - before[0], corner[1] - before[1]) || 1;
    const two = Math.hypot(after[0] - corner[0], after[1] - corner[1]) || 1;
    const radius = Math.min(10, one / 2, two / 2);
    const near = (/** @type {Point} */ other, /** @type {number} */ length) => /** @type {Point} */ (
      [corner[0] + ((other[0] - corner[0]) * radius) / length, corner[1] + ((other[1] - corner[1]) * radius) / length]);
    path += `L${at(near(before, one))}Q${at(corner)} ${at(near(after, two))}`;
  }
  return `${path}L${at(points[points.length - 1])}`;
}

/** The tip of an arrow at the end of a line, which comes from above. @param {Point[]} points */
export function headOf(points) {
  const [x, y] = points[points.length - 1];
  return `M${at([x, y])}L${at([x - 3.6, y - 7.5])}L${at([x + 3.6, y - 7.5])}Z`;
}

/** The same at the end of one that comes from the right. @param {Point[]} points */
export function headFromRight(points) {
  const [x, y] = points[points.length - 1];
  return `M${at([x, y])}L${at([x + 7.5, y - 3.6])}L${at([x + 7.5, y + 3.6])}Z`;
}

/** @param {Point} point */
function at([x, y]) {
  return `${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10}`;
}

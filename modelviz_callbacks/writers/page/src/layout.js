/**
 * Where boxes and edges are: each open box is laid out by itself (dagre, top to bottom), and is one
 * large node in the box around it. Long ways are wrapped into columns.
 */

import dagre from "@dagrejs/dagre";
import { linesBeside } from "./carried.js";
import { wire } from "./edges.js";
import { fitted, widthOf } from "./text.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {[number, number]} Point
 * @typedef {{text: string, size: number, bold: boolean, muted: boolean}} Line
 * @typedef {{box: Box, x: number, y: number, w: number, h: number, open: boolean, lines: Line[],
 *   inner: Layout|null, loop: boolean, tensor: number|null,
 *   inset: number}} Placed
 * @typedef {{from: string, to: string, tensors: number[], skip: boolean, legs: Point[][], turns: boolean, carried: boolean}} Route
 * @typedef {{at: Map<string, Point>, points: Point[][]}} Raw middles of nodes by id; points of edges
 * @typedef {{w: number, h: number, placed: Placed[], routes: Route[],
 *   entryAt: Map<number, number>, exitAt: Map<number, number>}} Layout
 */

const TITLE = 13, SMALL = 11, PAD_X = 12, PAD_Y = 8;
/** @type {Record<number, number>} */
const LEADING = { [TITLE]: 17, [SMALL]: 15 };
const MOST_WIDTH = 230;
export const HEADER = 26, FRAME = 14;
const GUTTER = 34, GAP = 30;
const PORT = 2;

export class Layouts {
  /** @param {import("./tree.js").Tree} tree @param {(box: Box) => string} describe a line for boxes
   *   without a detail of their own */
  constructor(tree, describe) {
    this.tree = tree;
    this.describe = describe;
    /** Width by height that long ways are wrapped to. */
    this.aspect = 1.3;
    /** Ways that are longer than this are wrapped. */
    this.wrapAt = 640;
    /** @type {WeakMap<Box, Map<string, Layout>>} */ this._known = new WeakMap();
    /** @type {WeakMap<Box, Map<string, Raw>>} */ this._placed = new WeakMap();
    /** @type {WeakMap<Box, import("./edges.js").Wiring>} */ this._wired = new WeakMap();
    /** @type {WeakMap<Box, import("./edges.js").Wiring>} */ this._wiredViews = new WeakMap();
    /** @type {WeakMap<Box, Line[]>} */ this._lines = new WeakMap();
  }

  /** @param {Box} box @param {boolean} [isView] */
  wiring(box, isView = false) {
    const known = isView ? this._wiredViews : this._wired;
    let found = known.get(box);
    if (!found) known.set(box, (found = wire(this.tree, box, !isView)));
    return found;
  }

  /** @param {Box} container @param {Set<string>} opened @param {boolean} [isView] whether it is
   *   looked into, so that what enters and leaves is drawn as boxes @returns {Layout} */
  of(container, opened, isView = false) {
    const wiring = this.wiring(container, isView);
    const placed = wiring.boxes.map((box) => this._sized(box, opened, wiring.loops));
    if (isView && container !== this.tree.root) placed.push(...this._ends(container, wiring));
    const sizes = placed.map(({ w, h }) => `${w}×${h}`).join();
    const raw = remembered(this._placed, container, `${isView}${sizes}`, () => arrange(placed, wiring));
    const aspect = isView ? this.aspect : Math.min(this.aspect, 1.2);
    const ports = placed.map(({ inner }) => (inner ? [...inner.entryAt.values(), ...inner.exitAt.values()].join() : "")).join(";");
    const key = `${isView}${sizes}${ports}${aspect.toFixed(1)},${this.wrapAt}`;
    const found = remembered(this._known, container, key, () =>
      finished(this.tree, raw, placed.map((one) => ({ ...one })), wiring, { aspect, wrapAt: isView ? Math.min(this.wrapAt, 560) : this.wrapAt }));
    // The same places, though what is inside of a box may have moved.
    found.placed.forEach((one, number) => {
      one.inner = placed[number].inner;
      one.open = placed[number].open;
    });
    return found;
  }

  /** @param {Box} box @param {Set<string>} opened @param {Set<string>} loops @returns {Placed} */
  _sized(box, opened, loops) {
    const open = opened.has(box.id) && this.tree.canOpen(box);
    const lines = this.linesOf(box);
    const loop = loops.has(box.id);
    if (open) {
      const inner = this.of(box, opened);
      const heading = headingOf(box);
      const least = widthOf(heading[0], TITLE, true) + widthOf(heading[1], SMALL) + 58;
      const w = Math.ceil(Math.max(inner.w + FRAME, Math.min(least, 420)));
      const inset = (w - inner.w - FRAME) / 2;
      return { box, x: 0, y: 0, w, h: Math.ceil(inner.h + HEADER), open, lines, inner, loop, tensor: null, inset };
    }
    const sign = this.tree.canOpen(box) ? 18 : 0;
    const widths = lines.map(({ text, size, bold }, at) => widthOf(text, size, bold) + (at ? 0 : 2 * sign));
    const w = Math.ceil(Math.max(34, ...widths) + 2 * PAD_X);
    const h = lines.reduce((sum, line) => sum + LEADING[line.size], 2 * PAD_Y);
    return { box, x: 0, y: 0, w, h, open, lines, inner: null, loop, tensor: null, inset: 0 };
  }

  /** @param {Box} box @returns {Line[]} */
  linesOf(box) {
    let lines = this._lines.get(box);
    if (lines) return lines;
    const times = box.times > 1 ? ` ×${box.times}` : "";
    const texts = [{ text: box.title + times, size: TITLE, bold: true, muted: false }];
    const detail = [box.detail || this.describe(box), box.varies].filter(Boolean).join(", ");
    const besides = this.tree.besides(box);
    const quiet = box.kind === "layout" || box.kind === "held" || box.kind === "op" && !detail;
    if (detail) texts.push({ text: detail, size: SMALL, bold: false, muted: false });
    const last = [box.label === box.title ? "" : box.label, this.tree.shapes(box)].filter(Boolean).join("  ·  ");
    if (last) texts.push({ text: last, size: SMALL, bold: false, muted: true });
    const was = this.tree.wasOf(box);
    if (was) texts.push({ text: was, size: SMALL, bold: false, muted: true });
    if (besides.length) texts.push({ text: `with ${besides.slice(0, 3).join(", ")}${besides.length > 3 ? ", …" : ""}`, size: SMALL, bold: false, muted: true });
    if (quiet) texts[0].bold = box.kind !== "layout";
    lines = texts.map((line) => ({ ...line, text: fitted(line.text, line.size, MOST_WIDTH, line.bold) }));
    this._lines.set(box, lines);
    return lines;
  }

  /** What enters and leaves a box that is looked into. @param {Box} container
   * @param {import("./edges.js").Wiring} wiring @returns {Placed[]} */
  _ends(container, wiring) {
    const { tree } = this;
    const scope = container.items.length === 1 && container.items[0] < 0 ? -container.items[0] : 0;
    const ports = scope ? tree.graph.scopes[scope] : { inputs: [], outputs: [] };
    const make = (/** @type {number} */ tensor, /** @type {"input"|"output"} */ kind) => {
      const known = ports[kind === "input" ? "inputs" : "outputs"].find((port) => port.tensor === tensor);
      const id = `${kind === "input" ? "in" : "out"}:${tensor}`;
      const full = `${container.id}|${id}`;
      const box = tree.byId.get(full) || tree._box(full, kind, container, [], container.scope,
        { title: known?.path || (kind === "output" ? "output" : tree.graph.tensorName(tensor)) });
      const lines = /** @type {Line[]} */ ([
        { text: fitted(box.title, TITLE, MOST_WIDTH, true), size: TITLE, bold: true, muted: false },
        { text: shapeOf(tree.graph.spec(tensor)), size: SMALL, bold: false, muted: true }]);
      const w = Math.ceil(Math.max(...lines.map((line) => widthOf(line.text, line.size, line.bold))) + 2 * PAD_X);
      return { box, x: 0, y: 0, w, h: 48, open: false, lines, inner: null, loop: false, tensor, inset: 0 };
    };
    return [...wiring.entries.map(({ tensors }) => make(tensors[0], "input")),
      ...wiring.exits.map(({ tensors }) => make(tensors[0], "output"))];
  }
}

/** @param {import("./graph.js").Spec} spec */
function shapeOf(spec) {
  return spec.shape ? spec.shape.join("×") || "scalar" : "?";
}

/** Title and name in the head of an open box. @param {Box} box @returns {[string, string]} */
export function headingOf(box) {
  return [box.title + (box.times > 1 ? ` ×${box.times}` : ""), box.label];
}

/**
 * @template T
 * @param {WeakMap<Box, Map<string, T>>} known @param {Box} box @param {string} key @param {() => T} make
 * @returns {T}
 */
function remembered(known, box, key, make) {
  const of = known.get(box) || new Map();
  known.set(box, of);
  let found = of.get(key);
  if (!found) {
    if (of.size > 12) of.clear();
    of.set(key, (found = make()));
  }
  return found;
}

/** @param {Placed[]} placed @returns {Map<string, Placed>} by the ids that edges have */
function drawnIn(placed) {
  return new Map(placed.map((one) => {
    if (one.tensor === null) return [one.box.id, one];
    return [`${one.box.kind === "input" ? "in" : "out"}:${one.tensor}`, one];
  }));
}

/** @param {Placed[]} placed @param {import("./edges.js").Wiring} wiring @returns {Raw} */
function arrange(placed, wiring) {
  const drawn = drawnIn(placed);
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 22, ranksep: GAP, edgesep: 14 });
  for (const [id, { w, h, loop }] of drawn) graph.setNode(id, { width: w + (loop ? 16 : 0), height: h });
  const ports = [...wiring.entries, ...wiring.exits].map(({ id }) => id).filter((id) => !drawn.has(id));
  for (const id of ports) graph.setNode(id, { width: PORT, height: PORT });
  const order = new Map(placed.map((one, number) => [one.box.id, number]));
  for (const { from, to, tensors, skip } of wiring.edges)
    graph.setEdge(from, to, { weight: skip ? 1 : follows(order, from, to) ? 6 : 2, tensors });
  pinPorts(graph, ports);
  dagre.layout(graph);
  const at = new Map(graph.nodes().map((/** @type {string} */ id) => [id, /** @type {Point} */ ([graph.node(id).x, graph.node(id).y])]));
  const points = wiring.edges.map(({ from, to }) =>
    graph.edge(from, to).points.map((/** @type {{x: number, y: number}} */ p) => [p.x, p.y]));
  return { at, points };
}

/** @param {Map<string, number>} order @param {string} from @param {string} to */
function follows(order, from, to) {
  return (order.get(to) ?? -1) - (order.get(from) ?? -1) === 1;
}

/** Ports stand at the borders: all entries in the first row, all exits in the last one.
 * @param {any} graph @param {string[]} ports */
function pinPorts(graph, ports) {
  const all = graph.nodes().filter((/** @type {string} */ id) => !ports.includes(id));
  const entries = ports.filter((id) => id.startsWith("in:"));
  const exits = ports.filter((id) => id.startsWith("out:"));
  const sources = all.filter((/** @type {string} */ id) => !(graph.predecessors(id) || []).length);
  const sinks = all.filter((/** @type {string} */ id) => !(graph.successors(id) || []).length);
  if (entries.length && entries.length + sources.length > 1) {
    graph.setNode(":top", { width: 1, height: 1 });
    for (const id of entries) graph.setEdge(":top", id, { weight: 8 });
  }
  if (exits.length && exits.length + sinks.length > 1) {
    graph.setNode(":bottom", { width: 1, height: 1 });
    for (const id of exits) graph.setEdge(id, ":bottom", { weight: 8 });
  }
}

/** Puts boxes in their places, wraps them into columns, and runs edges to the borders.
 * @param {import("./tree.js").Tree} tree @param {Raw} raw @param {Placed[]} placed
 * @param {import("./edges.js").Wiring} wiring
 * @param {{aspect: number, wrapAt: number}} wish @returns {Layout} */
function finished(tree, raw, placed, wiring, wish) {
  const drawn = drawnIn(placed);
  for (const [id, one] of drawn) {
    const [x, y] = raw.at.get(id) || [0, 0];
    one.x = x - one.w / 2;
    one.y = y - one.h / 2;
  }
  const routes = wiring.edges.map(({ from, to, tensors, skip }, number) => {
    const leg = between(drawn.get(from), drawn.get(to), raw.points[number]);
    return /** @type {Route} */ ({ from, to, tensors, skip, legs: [leg], turns: false, carried: false });
  });
  for (const route of routes) toPorts(tree, route, drawn);
  const entryX = portsOf(raw, wiring.entries, routes, drawn, "from");
  const exitX = portsOf(raw, wiring.exits, routes, drawn, "to");
  const columns = wrapped(placed, routes, wish);
  const span = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const { x, y, w, h, loop } of placed) grow(span, x, y, x + w + (loop ? 16 : 0), y + h);
  for (const [tensor, x] of entryX) entryX.set(tensor, x + columns.shift[0]);
  for (const [tensor, x] of exitX) exitX.set(tensor, x + columns.shift[columns.shift.length - 1]);
  if (!placed.length) grow(span, 0, 0, 40, 0);
  for (const { legs } of routes) for (const leg of legs) for (const [x] of leg) grow(span, x, span.top, x, span.top);
  // Where boxes stand in columns there is no way beside them all; the frame's own sign tells the same.
  const back = columns.shift.length > 1 ? [] : linesBeside(wiring.carried, drawn, span.right);
  for (const { from, to, tensors, points } of back) {
    routes.push({ from, to, tensors, skip: false, legs: [points], turns: true, carried: true });
    grow(span, points[1][0], span.top, points[1][0], span.top);
  }
  const dx = FRAME - span.left, dy = (entryX.size ? 22 : 12) - span.top;
  for (const one of placed) {
    one.x += dx;
    one.y += dy;
  }
  const height = span.bottom + dy + (exitX.size ? 20 : FRAME);
  for (const [tensor, x] of entryX) entryX.set(tensor, x + dx);
  for (const [tensor, x] of exitX) exitX.set(tensor, x + dx);
  for (const route of routes) {
    route.legs = route.legs.map((leg) => leg.map(([x, y]) => [x + dx, y + dy]));
    const first = route.legs[0], last = route.legs[route.legs.length - 1];
    if (!drawn.has(route.from)) first[0] = [entryX.get(route.tensors[0]) ?? first[0][0], 0];
    if (!drawn.has(route.to)) last[last.length - 1] = [exitX.get(route.tensors[0]) ?? last[last.length - 1][0], height];
  }
  return { w: span.right + dx, h: height, placed, routes, entryAt: entryX, exitAt: exitX };
}

/** Where tensors cross the border: right above the port of the one open box they go to, if it is one.
 * @param {Raw} raw @param {import("./edges.js").Gate[]} gates @param {Route[]} routes
 * @param {Map<string, Placed>} drawn @param {"from"|"to"} side the end of edges that is at the gate
 * @returns {Map<number, number>} by tensor */
function portsOf(raw, gates, routes, drawn, side) {
  /** @type {Map<number, number>} */ const found = new Map();
  for (const { id, tensors } of gates) {
    if (drawn.has(id)) continue;
    const mine = routes.filter((route) => route[side] === id);
    let [x, y] = raw.at.get(id) || [0, 0];
    for (const { legs: [leg] } of mine) {
      if (leg.length !== 2) continue;
      const other = side === "from" ? leg[1] : leg[0];
      if (mine.length === 1 && isFree(drawn, other, side)) [x] = other;
      else leg.splice(1, 0, ...pastRow(drawn, [x, y], side));
    }
    for (const { legs: [leg] } of mine) leg[side === "from" ? 0 : leg.length - 1][0] = x;
    for (const tensor of tensors) found.set(tensor, x);
  }
  return found;
}

/** Whether nothing stands between the end of an edge and the border.
 * @param {Map<string, Placed>} drawn @param {Point} end @param {"from"|"to"} side */
function isFree(drawn, [x, y], side) {
  return ![...drawn.values()].some((one) => one.x < x && x < one.x + one.w &&
    (side === "from" ? one.y + one.h < y : one.y > y));
}

/** The point at which an edge has passed the boxes beside a port. @param {Map<string, Placed>} drawn
 * @param {Point} port @param {"from"|"to"} side @returns {Point[]} none where there are no boxes */
function pastRow(drawn, [x, y], side) {
  const beside = [...drawn.values()].filter((one) => one.y <= y && y <= one.y + one.h);
  if (!beside.length) return [];
  return [[x, side === "from" ? Math.max(...beside.map((one) => one.y + one.h)) + GAP / 4 : Math.min(...beside.map((one) => one.y)) - GAP / 4]];
}

/** The points of an edge, from the lower border of a box to the upper border of another.
 * @param {Placed|undefined} source @param {Placed|undefined} target @param {Point[]} points */
function between(source, target, points) {
  const [first, last] = [points[0], points[points.length - 1]];
  const inner = points.slice(1, -1).map((point) => /** @type {Point} */ ([...point]));
  // Sideways between the rows, straight along boxes.
  if (inner.length < 3) inner.length = 0;
  else {
    inner[0][1] += GAP / 2;
    inner[inner.length - 1][1] -= GAP / 2;
  }
  const start = source ? onBorder(source, inner[0] || last, first, source.y + source.h) : first;
  const end = target ? onBorder(target, inner[inner.length - 1] || first, last, target.y) : last;
  return [start, ...inner, end];
}

/** @param {Placed} box @param {Point} toward @param {Point} proposed @param {number} y @returns {Point} */
function onBorder(box, toward, proposed, y) {
  const middle = box.x + box.w / 2;
  const room = Math.max(0, Math.min(box.w / 2 - 14, box.w * 0.3));
  const wanted = Math.abs(proposed[1] - y) < 1 ? proposed[0] : toward[0];
  return [Math.abs(toward[0] - middle) < 3 ? middle : Math.min(middle + room, Math.max(middle - room, wanted)), y];
}

/** @param {{left: number, right: number, top: number, bottom: number}} span @param {number} left
 * @param {number} top @param {number} right @param {number} bottom */
function grow(span, left, top, right, bottom) {
  span.left = Math.min(span.left, left);
  span.top = Math.min(span.top, top);
  span.right = Math.max(span.right, right);
  span.bottom = Math.max(span.bottom, bottom);
}

/** Ends of an edge at an open box are at that box's ports. @param {import("./tree.js").Tree} tree
 * @param {Route} route @param {Map<string, Placed>} drawn */
function toPorts(tree, route, drawn) {
  const [leg] = route.legs;
  const target = drawn.get(route.to), source = drawn.get(route.from);
  if (source?.inner) {
    const [x] = portsAt(source.inner.exitAt, route.tensors.map((tensor) => tree.inFirstCopy(source.box, tensor)));
    if (x !== undefined) leg[0] = [source.x + source.inset + x, source.y + source.h];
  }
  if (target?.inner) {
    const before = leg.slice(0, -1);
    portsAt(target.inner.entryAt, route.tensors).forEach((x, number) => {
      const end = /** @type {Point} */ ([target.x + target.inset + x, target.y]);
      if (!number) leg[leg.length - 1] = end;
      else route.legs.push([...before.slice(-1), end]);
    });
  }
}

/** Places of ports, each once. @param {Map<number, number>} at @param {number[]} tensors */
function portsAt(at, tensors) {
  const found = new Set(tensors.flatMap((tensor) => at.get(tensor) ?? []));
  // Tensors of another copy: through the one port that there is.
  return found.size || at.size !== 1 ? [...found] : [...at.values()];
}

/** Cuts a long way into columns side by side where few edges run.
 * @param {Placed[]} placed @param {Route[]} routes @param {{aspect: number, wrapAt: number}} wish */
function wrapped(placed, routes, { aspect, wrapAt }) {
  const whole = { shift: [0] };
  const rows = rowsOf(placed);
  const top = Math.min(...placed.map(({ y }) => y)), bottom = Math.max(...placed.map(({ y, h }) => y + h));
  const left = Math.min(...placed.map(({ x }) => x)), right = Math.max(...placed.map(({ x, w }) => x + w));
  const width = right - left, height = bottom - top;
  if (rows.length < 3 || height < wrapAt || width / height > aspect * 0.6) return whole;
  const gaps = rows.slice(1).map((row, number) => {
    const y = (rows[number].bottom + row.top) / 2;
    const crossing = routes.filter(({ legs: [leg] }) => leg[0][1] < y && leg[leg.length - 1][1] > y);
    return { y, crossing: crossing.length };
  });
  const cuts = bestCuts(placed, gaps, { top, bottom, width, height }, aspect);
  return cuts.length ? moveColumns(placed, routes, [top, ...cuts, bottom]) : whole;
}

/** The cuts after which the whole fits best into a window.
 * @param {Placed[]} placed @param {{y: number, crossing: number}[]} gaps
 * @param {{top: number, bottom: number, width: number, height: number}} span @param {number} aspect */
function bestCuts(placed, gaps, { top, bottom, width, height }, aspect) {
  let best = /** @type {number[]} */ ([]);
  let least = Math.max(width / aspect, height);
  for (let count = 2; count <= Math.min(8, gaps.length + 1); count++) {
    const chosen = evenCuts(gaps, top, bottom, count);
    const cuts = chosen.map(({ y }) => y);
    const borders = [top, ...cuts, bottom];
    let total = 0, tallest = 0;
    for (let column = 0; column < count; column++) {
      const inside = placed.filter(({ y, h }) => y + h / 2 > borders[column] && y + h / 2 <= borders[column + 1]);
      if (!inside.length) continue;
      total += Math.max(...inside.map(({ x, w }) => x + w)) - Math.min(...inside.map(({ x }) => x)) + GUTTER * 1.6;
      tallest = Math.max(tallest, borders[column + 1] - borders[column]);
    }
    const crossing = chosen.reduce((sum, gap) => sum + gap.crossing - 1, 0);
    const size = Math.max(total / aspect, tallest) * (1 + 0.05 * count + 0.06 * crossing);
    if (size < least) [best, least] = [cuts, size];
  }
  return best;
}

/** Rows that no box reaches across. @param {Placed[]} placed */
function rowsOf(placed) {
  /** @type {{top: number, bottom: number}[]} */ const rows = [];
  for (const { y, h } of [...placed].sort((one, two) => one.y - two.y)) {
    const last = rows[rows.length - 1];
    if (last && y < last.bottom) last.bottom = Math.max(last.bottom, y + h);
    else rows.push({ top: y, bottom: y + h });
  }
  return rows;
}

/** Cuts into so many columns, about equally high, where few edges run.
 * @param {{y: number, crossing: number}[]} gaps @param {number} top @param {number} bottom
 * @param {number} count */
function evenCuts(gaps, top, bottom, count) {
  const each = (bottom - top) / count;
  const uneven = (/** @type {number} */ length) => (length - each) ** 2 / each;
  /** @type {{cost: number, cuts: typeof gaps}[]} the best way to each gap */
  let ways = gaps.map((gap) => ({ cost: uneven(gap.y - top) + (gap.crossing - 1) * each * 0.12, cuts: [gap] }));
  for (let column = 2; column < count; column++)
    ways = gaps.map((gap, number) => {
      let best = { cost: Infinity, cuts: /** @type {typeof gaps} */ ([]) };
      for (let before = 0; before < number; before++) {
        const cost = ways[before].cost + uneven(gap.y - gaps[before].y) + (gap.crossing - 1) * each * 0.12;
        if (cost < best.cost) best = { cost, cuts: [...ways[before].cuts, gap] };
      }
      return best;
    });
  const whole = ways.map(({ cost, cuts }, number) => ({ cost: cost + uneven(bottom - gaps[number].y), cuts }));
  return whole.reduce((one, two) => (two.cost < one.cost ? two : one)).cuts;
}

/** @param {Placed[]} placed @param {Route[]} routes @param {number[]} borders */
function moveColumns(placed, routes, borders) {
  const columnOf = (/** @type {number} */ y) => {
    let column = 0;
    while (column < borders.length - 2 && y > borders[column + 1]) column++;
    return column;
  };
  const count = borders.length - 1;
  const spans = Array.from({ length: count }, () => ({ left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity }));
  for (const { x, y, w, h } of placed) grow(spans[columnOf(y + h / 2)], x, y, x + w, y + h);
  for (const { legs: [leg] } of routes) {
    const from = columnOf(leg[0][1]), to = columnOf(leg[leg.length - 1][1]);
    if (from === to) for (const [x, y] of leg) grow(spans[from], x, Math.min(Math.max(y, spans[from].top), spans[from].bottom), x, spans[from].bottom);
  }
  /** @type {number[]} */ const shift = [];
  /** @type {number[]} */ const lift = [];
  let at = spans[0].left;
  spans.forEach((span, number) => {
    shift.push(at - span.left);
    lift.push(spans[0].top - span.top);
    at += span.right - span.left + GUTTER * 1.6;
  });
  const ends = routes.map(({ legs: [leg] }) => [columnOf(leg[0][1]), columnOf(leg[leg.length - 1][1])]);
  for (const one of placed) {
    const column = columnOf(one.y + one.h / 2);
    one.x += shift[column];
    one.y += lift[column];
  }
  const deepest = Math.max(...spans.map((span, number) => span.bottom + lift[number]));
  let lane = 0;
  routes.forEach((route, number) => {
    const [from, to] = ends[number];
    const leg = route.legs[0];
    if (from === to) {
      route.legs = route.legs.map((one) => one.map(([x, y]) => [x + shift[from], y + lift[from]]));
      return;
    }
    const others = route.legs.slice(1).map((one) => one[one.length - 1]);
    const part = (/** @type {number} */ column) => leg.filter(([, y]) => columnOf(y) === column)
      .map(([x, y]) => /** @type {Point} */ ([x + shift[column], y + lift[column]]));
    const head = part(from), tail = part(to);
    const step = (lane++ % 4) * 6;
    const low = (to - from > 1 ? deepest : spans[from].bottom + lift[from]) + 12 + step;
    const between = spans[to].left + shift[to] - GUTTER * 0.8 - step;
    const high = spans[to].top + lift[to] - 12 - step;
    route.legs = [upright([...head, [head[head.length - 1][0], low], [between, low], [between, high], [tail[0][0], high], ...tail])];
    for (const [x, y] of others) {
      const tip = /** @type {Point} */ ([x + shift[to], y + lift[to]]);
      route.legs.push([[tail[0][0], high], [tip[0], high], tip]);
    }
    route.turns = true;
  });
  return { shift };
}

/** Points joined by upright and level lines only. @param {Point[]} points @returns {Point[]} */
function upright(points) {
  return points.flatMap(([x, y], number) => {
    const [px, py] = points[number - 1] || [x, y];
    if (Math.abs(px - x) < 1 || Math.abs(py - y) < 1) return [/** @type {Point} */ ([x, y])];
    const middle = (py + y) / 2;
    return /** @type {Point[]} */ ([[px, middle], [x, middle], [x, y]]);
  });
}

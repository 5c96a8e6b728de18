/**
 * Where boxes and edges are: each open box is laid out by itself (dagre, top to bottom), and is one
 * large node in the box around it. Long ways are wrapped into columns.
 */

import dagre from "@dagrejs/dagre";
import { wire } from "./edges.js";
import { fitted, widthOf } from "./text.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {[number, number]} Point
 * @typedef {{text: string, size: number, bold: boolean, muted: boolean}} Line
 * @typedef {{box: Box, x: number, y: number, w: number, h: number, open: boolean, lines: Line[],
 *   inner: Layout|null, loop: boolean, tensor: number|null}} Placed
 * @typedef {{from: string, to: string, tensors: number[], skip: boolean, legs: Point[][]}} Route
 * @typedef {{w: number, h: number, placed: Placed[], routes: Route[],
 *   entryAt: Map<number, number>, exitAt: Map<number, number>}} Layout
 */

const TITLE = 13, SMALL = 11, PAD_X = 12, PAD_Y = 8;
/** @type {Record<number, number>} */
const LEADING = { [TITLE]: 17, [SMALL]: 15 };
const MOST_WIDTH = 230;
export const HEADER = 26, FRAME = 14;
const GUTTER = 34;
/** Edges to and from what is beyond this many boxes of a chain need no layout library. */
const PORT = 2;

export class Layouts {
  /** @param {import("./tree.js").Tree} tree @param {(box: Box) => string} describe a line for boxes
   *   without a detail of their own */
  constructor(tree, describe) {
    this.tree = tree;
    this.describe = describe;
    /** Width by height that long ways are wrapped to. */
    this.aspect = 1.3;
    /** @type {WeakMap<Box, Map<string, Layout>>} */ this._known = new WeakMap();
    /** @type {WeakMap<Box, import("./edges.js").Wiring>} */ this._wired = new WeakMap();
    /** @type {WeakMap<Box, Line[]>} */ this._lines = new WeakMap();
  }

  /** @param {Box} box */
  wiring(box) {
    let found = this._wired.get(box);
    if (!found) this._wired.set(box, (found = wire(this.tree, box)));
    return found;
  }

  /** @param {Box} container @param {Set<string>} opened @param {boolean} [isView] whether it is
   *   looked into, so that what enters and leaves is drawn as boxes @returns {Layout} */
  of(container, opened, isView = false) {
    const wiring = this.wiring(container);
    const placed = wiring.boxes.map((box) => this._sized(box, opened, wiring.loops));
    if (isView && container !== this.tree.root) placed.push(...this._ends(container, wiring));
    const key = `${isView}${this.aspect.toFixed(1)}:${placed.map(({ w, h }) => `${w}×${h}`).join()}`;
    const known = this._known.get(container) || new Map();
    this._known.set(container, known);
    let found = known.get(key);
    if (!found) {
      found = arrange(placed, wiring, isView ? this.aspect : Math.min(this.aspect, 1));
      if (known.size > 12) known.clear();
      known.set(key, found);
    }
    // The same places, though what is inside of a box may have moved.
    found.placed.forEach((/** @type {Placed} */ one, /** @type {number} */ number) => {
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
      const w = Math.ceil(Math.max(inner.w, Math.min(least, 420)) + 2 * FRAME);
      return { box, x: 0, y: 0, w, h: Math.ceil(inner.h + HEADER), open, lines, inner, loop, tensor: null };
    }
    const sign = this.tree.canOpen(box) ? 18 : 0;
    const widths = lines.map(({ text, size, bold }, at) => widthOf(text, size, bold) + (at ? 0 : 2 * sign));
    const w = Math.ceil(Math.max(34, ...widths) + 2 * PAD_X);
    const h = lines.reduce((sum, line) => sum + LEADING[line.size], 2 * PAD_Y);
    return { box, x: 0, y: 0, w, h, open, lines, inner: null, loop, tensor: null };
  }

  /** @param {Box} box @returns {Line[]} */
  linesOf(box) {
    let lines = this._lines.get(box);
    if (lines) return lines;
    const times = box.times > 1 ? ` ×${box.times}` : "";
    const texts = [{ text: box.title + times, size: TITLE, bold: true, muted: false }];
    const detail = [box.detail || this.describe(box), box.varies].filter(Boolean).join(", ");
    const quiet = box.kind === "layout" || box.kind === "held" || box.kind === "op" && !detail;
    if (detail) texts.push({ text: detail, size: SMALL, bold: false, muted: false });
    const last = [box.label, this.tree.shapes(box)].filter(Boolean).join("  ·  ");
    if (last) texts.push({ text: last, size: SMALL, bold: false, muted: true });
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
      return { box, x: 0, y: 0, w, h: 48, open: false, lines, inner: null, loop: false, tensor };
    };
    return [...wiring.entries.map((tensor) => make(tensor, "input")),
      ...wiring.exits.map((tensor) => make(tensor, "output"))];
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

/** @param {Placed[]} placed @param {import("./edges.js").Wiring} wiring @param {number} aspect
 * @returns {Layout} */
function arrange(placed, wiring, aspect) {
  const drawn = new Map();
  for (const one of placed) {
    if (one.tensor !== null) drawn.set(one.box.kind === "input" ? `in:${one.tensor}` : `out:${one.tensor}`, one);
    else drawn.set(one.box.id, one);
  }
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 22, ranksep: 30, edgesep: 14 });
  for (const [id, { w, h, loop }] of drawn) graph.setNode(id, { width: w + (loop ? 16 : 0), height: h });
  const ports = [...wiring.entries.map((tensor) => `in:${tensor}`), ...wiring.exits.map((tensor) => `out:${tensor}`)]
    .filter((id) => !drawn.has(id));
  for (const id of ports) graph.setNode(id, { width: PORT, height: PORT });
  const order = new Map(placed.map((one, number) => [one.box.id, number]));
  for (const { from, to, tensors, skip } of wiring.edges)
    graph.setEdge(from, to, { weight: skip ? 1 : follows(order, from, to) ? 6 : 2, tensors });
  pinPorts(graph, ports);
  dagre.layout(graph);
  for (const id of [":top", ":bottom"]) graph.hasNode(id) && graph.removeNode(id);
  return finished(graph, placed, drawn, wiring, aspect);
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

/** Reads the places back, wraps them into columns, and runs edges to the borders.
 * @param {any} graph @param {Placed[]} placed @param {Map<string, Placed>} drawn
 * @param {import("./edges.js").Wiring} wiring @param {number} aspect @returns {Layout} */
function finished(graph, placed, drawn, wiring, aspect) {
  for (const [id, one] of drawn) {
    const { x, y } = graph.node(id);
    one.x = x - one.w / 2;
    one.y = y - one.h / 2;
  }
  /** @type {Route[]} */
  const routes = wiring.edges.map(({ from, to, tensors, skip }) => {
    const points = graph.edge(from, to).points.map((/** @type {{x: number, y: number}} */ p) => [p.x, p.y]);
    return { from, to, tensors, skip, legs: [/** @type {Point[]} */ (points)] };
  });
  const portX = (/** @type {string} */ id) => graph.node(id).x;
  const entryX = new Map(wiring.entries.filter((t) => !drawn.has(`in:${t}`)).map((t) => [t, portX(`in:${t}`)]));
  const exitX = new Map(wiring.exits.filter((t) => !drawn.has(`out:${t}`)).map((t) => [t, portX(`out:${t}`)]));
  const columns = wrapped(placed, routes, aspect);
  const span = { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
  for (const { x, y, w, h, loop } of placed) grow(span, x, y, x + w + (loop ? 16 : 0), y + h);
  const moved = (/** @type {number} */ x, /** @type {number} */ column) => x + columns.shift[column];
  for (const [tensor, x] of entryX) entryX.set(tensor, moved(x, 0));
  for (const [tensor, x] of exitX) exitX.set(tensor, moved(x, columns.shift.length - 1));
  if (!placed.length) grow(span, 0, 0, 40, 0);
  for (const { legs } of routes) for (const leg of legs) for (const [x] of leg) grow(span, x, span.top, x, span.top);
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
  const layout = { w: span.right + dx, h: height, placed, routes, entryAt: entryX, exitAt: exitX };
  for (const route of routes) toPorts(route, drawn);
  return layout;
}

/** @param {{left: number, right: number, top: number, bottom: number}} span @param {number} left
 * @param {number} top @param {number} right @param {number} bottom */
function grow(span, left, top, right, bottom) {
  span.left = Math.min(span.left, left);
  span.top = Math.min(span.top, top);
  span.right = Math.max(span.right, right);
  span.bottom = Math.max(span.bottom, bottom);
}

/** Ends of an edge at an open box are at that box's ports. @param {Route} route
 * @param {Map<string, Placed>} drawn */
function toPorts(route, drawn) {
  const [leg] = route.legs;
  const target = drawn.get(route.to), source = drawn.get(route.from);
  if (source?.inner) {
    const inner = source.inner;
    const found = route.tensors.map((tensor) => inner.exitAt.get(tensor)).filter((x) => x !== undefined);
    if (found.length) leg[0] = [source.x + found[0], source.y + source.h];
  }
  if (target?.inner) {
    const inner = target.inner;
    const found = [...new Set(route.tensors.map((tensor) => inner.entryAt.get(tensor)))].filter((x) => x !== undefined);
    const before = leg.slice(0, -1);
    found.forEach((x, number) => {
      const end = /** @type {Point} */ ([target.x + /** @type {number} */ (x), target.y]);
      if (!number) leg[leg.length - 1] = end;
      else route.legs.push([...before.slice(-1), end]);
    });
  }
}

/** Cuts a long way into columns side by side where few edges run.
 * @param {Placed[]} placed @param {Route[]} routes @param {number} aspect */
function wrapped(placed, routes, aspect) {
  const whole = { shift: [0] };
  const rows = rowsOf(placed);
  const top = Math.min(...placed.map(({ y }) => y)), bottom = Math.max(...placed.map(({ y, h }) => y + h));
  const left = Math.min(...placed.map(({ x }) => x)), right = Math.max(...placed.map(({ x, w }) => x + w));
  const width = right - left, height = bottom - top;
  if (rows.length < 6 || height < 560 || width / height > aspect * 0.6) return whole;
  const gaps = rows.slice(1).map((row, number) => {
    const y = (rows[number].bottom + row.top) / 2;
    const crossing = routes.filter(({ legs: [leg] }) => leg[0][1] < y && leg[leg.length - 1][1] > y);
    return { y, crossing: crossing.length };
  });
  const count = Math.max(2, Math.min(8, Math.round(Math.sqrt((height * aspect) / (width + GUTTER)))));
  const cuts = chooseCuts(gaps, top, bottom, count);
  if (!cuts.length) return whole;
  return moveColumns(placed, routes, [top, ...cuts, bottom]);
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

/** @param {{y: number, crossing: number}[]} gaps @param {number} top @param {number} bottom
 * @param {number} count */
function chooseCuts(gaps, top, bottom, count) {
  const fewest = Math.min(...gaps.map((gap) => gap.crossing));
  const allowed = gaps.filter((gap) => gap.crossing <= Math.max(fewest, 2));
  const each = (bottom - top) / count;
  /** @type {number[]} */ const cuts = [];
  let from = top;
  for (let number = 1; number < count; number++) {
    const goal = top + number * each;
    const costs = allowed.filter((gap) => gap.y > from + each * 0.4 && gap.y < bottom - each * 0.3)
      .map((gap) => ({ gap, cost: Math.abs(gap.y - goal) + (gap.crossing - 1) * each * 0.15 }));
    if (!costs.length) break;
    const best = costs.reduce((one, two) => (two.cost < one.cost ? two : one));
    if (Math.abs(best.gap.y - goal) > each * 0.6) continue;
    cuts.push(best.gap.y);
    from = best.gap.y;
  }
  return cuts;
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
      route.legs = [leg.map(([x, y]) => [x + shift[from], y + lift[from]])];
      return;
    }
    const start = /** @type {Point} */ ([leg[0][0] + shift[from], leg[0][1] + lift[from]]);
    const end = /** @type {Point} */ ([leg[leg.length - 1][0] + shift[to], leg[leg.length - 1][1] + lift[to]]);
    const step = (lane++ % 4) * 6;
    const low = (to - from > 1 ? deepest : spans[from].bottom + lift[from]) + 12 + step;
    const between = spans[to].left + shift[to] - GUTTER * 0.8 - step;
    const high = spans[to].top + lift[to] - 12 - step;
    const side = start[1] < spans[from].bottom + lift[from] - 4
      ? spans[from].right + shift[from] + 8 + step : start[0];
    route.legs = [[start, [side, start[1] + 10], [side, low], [between, low], [between, high], [end[0], high], end]];
  });
  return { shift };
}

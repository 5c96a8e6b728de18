/** The memory that is alive along the forward, as a curve over its ops. */

import { h } from "./dom.js";
import { svgElement } from "./draw.js";
import { bytesText } from "./text.js";

const WIDTH = 280, HEIGHT = 64;

/**
 * @param {import("./graph.js").Graph} graph
 * @param {number[]} chosen ops to be marked; none: all of it is meant
 * @param {(target: {node: number}) => void} go to an op that is pressed
 * @returns {HTMLElement|null} nothing where memory is not known
 */
export function memoryCurve(graph, chosen, go) {
  const { live } = graph;
  if (!live) return null;
  const ops = graph.nodes.map((_, number) => number).filter((number) => graph.isCall(number) && live[number] > 0);
  if (ops.length < 2) return null;
  const columns = columnsOf(ops, live);
  const top = columns.reduce((one, two) => (live[two] > live[one] ? two : one));
  const marked = new Set(chosen);
  const inside = ops.filter((number) => marked.has(number));
  const high = inside.length ? inside.reduce((one, two) => (live[two] > live[one] ? two : one)) : top;
  const link = h("button", { class: "link", onclick: () => go({ node: high }) }, graph.nodeName(high));
  const said = inside.length ? `${bytesText(live[high])} of ${bytesText(live[top])}` : bytesText(live[top]);
  return h("div", { class: "curve" }, drawn(graph, columns, top, marked, ops, go), h("p", {}, `at most ${said}, at `, link));
}

/** The op with the most in each column; as many columns as there are ops, or as there is room for.
 * @param {number[]} ops @param {Float64Array} live */
function columnsOf(ops, live) {
  const count = Math.min(ops.length, WIDTH);
  return Array.from({ length: count }, (_, place) => {
    const part = ops.slice(Math.floor((place * ops.length) / count), Math.floor(((place + 1) * ops.length) / count));
    return part.reduce((one, two) => (live[two] > live[one] ? two : one));
  });
}

/** @param {import("./graph.js").Graph} graph @param {number[]} columns @param {number} top
 * @param {Set<number>} marked @param {number[]} ops @param {(target: {node: number}) => void} go */
function drawn(graph, columns, top, marked, ops, go) {
  const live = /** @type {Float64Array} */ (graph.live);
  const step = WIDTH / columns.length;
  const y = (/** @type {number} */ number) => Math.round(10 * (HEIGHT - (live[number] / live[top]) * (HEIGHT - 2))) / 10;
  const steps = columns.map((number, place) => `V${y(number)}H${Math.round(10 * (place + 1) * step) / 10}`).join("");
  const svg = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Memory alive along the forward, at most ${bytesText(live[top])} at ${graph.nodeName(top)}` });
  const title = svg.appendChild(svgElement("title", {}, ""));
  for (const [from, to] of runs(ops, marked))
    svg.append(svgElement("rect", { class: "chosen", x: (from / ops.length) * WIDTH, width: ((to - from) / ops.length) * WIDTH, y: 0, height: HEIGHT }));
  svg.append(svgElement("path", { class: "area", d: `M0 ${HEIGHT}${steps}V${HEIGHT}Z` }),
    svgElement("path", { class: "top", d: `M0 ${y(columns[0])}${steps}` }));
  const under = (/** @type {MouseEvent} */ event) => {
    const { left, width } = svg.getBoundingClientRect();
    return columns[Math.max(0, Math.min(columns.length - 1, Math.floor(((event.clientX - left) / width) * columns.length)))];
  };
  svg.addEventListener("pointermove", (event) => {
    const number = under(/** @type {PointerEvent} */ (event));
    title.textContent = `${graph.nodeName(number)}: ${bytesText(live[number])}`;
  });
  svg.addEventListener("click", (event) => go({ node: under(/** @type {MouseEvent} */ (event)) }));
  return svg;
}

/** Where marked ops follow each other, as first and behind the last.
 * @param {number[]} ops @param {Set<number>} marked @returns {[number, number][]} */
function runs(ops, marked) {
  /** @type {[number, number][]} */ const found = [];
  ops.forEach((number, place) => {
    const last = found.at(-1);
    if (!marked.has(number)) return;
    if (last && last[1] === place) last[1]++;
    else found.push([place, place + 1]);
  });
  return found;
}

/**
 * Colour modes. Amounts go from light to dark in one hue (viridis' order of lightness), kinds take
 * the colours of Okabe and Ito, which the colour-blind tell apart.
 */

import { bytesText, percent, short, small, timeText } from "./text.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {import("./metrics.js").Sums} Sums
 * @typedef {{fill: string, text: string}} Paint
 * @typedef {{id: string, title: string, amount?: (sums: Sums) => number, tell?: (value: number) => string,
 *   kind?: (box: Box) => string, seen?: string, whole?: number}} Mode
 */

const KINDS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2", "#d55e00", "#999999"];
const RAMP = ["#f7f5ce", "#c9e3b4", "#7fcdbb", "#41a3c0", "#2c6fad", "#243f8f", "#1b1f63"];
const TRAINING = { trainable: "#0072b2", "partly frozen": "#cc79a7", frozen: "#e69f00" };
const DIFFERENCES = { added: "#009e73", removed: "#d55e00", changed: "#f0e442", "differs inside": "#e9e3b0" };

/** @param {import("./graph.js").Graph} graph @param {import("./metrics.js").Metrics} metrics
 * @param {(box: Box) => string} difference @returns {Mode[]} */
export function modesOf(graph, metrics, difference) {
  const { tree } = metrics;
  /** @type {Mode[]} */
  const all = [
    { id: "params", title: "parameters", amount: (sums) => sums.params, tell: (value) => short(value) },
    { id: "flops", title: "FLOPs", amount: (sums) => sums.flops ?? 0, tell: (value) => `${short(value)}FLOP`.replace(/(\d)FLOP/, "$1 FLOP") },
    { id: "bytes", title: "bytes made", amount: (sums) => sums.made, tell: bytesText },
    { id: "kept", title: "kept memory", amount: (sums) => sums.kept, tell: bytesText },
    { id: "optimizer", title: "optimizer state", amount: (sums) => sums.optimizer, tell: bytesText },
    { id: "time", title: "time", amount: (sums) => sums.time, tell: timeText },
    { id: "backward", title: "backward time", amount: (sums) => sums.backward, tell: timeText },
    ...seenModes(graph.health?.step),
    { id: "dtype", title: "dtype", kind: (box) => metrics.of(box).dtype },
    { id: "training", title: "trainable", kind: (box) => metrics.training(box) },
    { id: "device", title: "device", kind: (box) => metrics.of(box).device },
  ];
  const known = all.filter((mode) => {
    if (mode.seen) return true;
    if (mode.amount) return mode.amount(metrics.of(tree.root)) > 0;
    if (mode.id === "training") return metrics.of(tree.root).params > 0;
    if (mode.id === "device") return new Set(graph.specs.map((spec) => spec.device)).size > 1;
    return graph.specs.length > 0;
  });
  if (graph.differences.length) known.unshift({ id: "difference", title: "differences", kind: difference });
  return known;
}

/** What was seen in one later step. @param {number|undefined} step @returns {Mode[]} */
function seenModes(step) {
  if (step === undefined) return [];
  const seen = `step ${step}`;
  return [
    { id: "gradient", title: "gradient norm", amount: gradientNorm, tell: small, seen },
    { id: "zeros", title: "share of zeros", amount: zeroShare, tell: percent, seen, whole: 1 },
    { id: "update", title: "update ratio", amount: updateRatio, tell: small, seen },
  ];
}

/** @param {Sums} sums */
export const gradientNorm = (sums) => Math.sqrt(sums.gradient);
/** @param {Sums} sums */
export const zeroShare = (sums) => (sums.elements ? sums.zeros / sums.elements : 0);
/** @param {Sums} sums */
export const updateRatio = (sums) => {
  if (!Number.isFinite(sums.update)) return Infinity;
  return sums.weight ? Math.sqrt(sums.update / sums.weight) : 0;
};

/**
 * @param {Mode} mode @param {import("./metrics.js").Metrics} metrics @param {Box[]} boxes those that
 *   are drawn closed
 * @returns {{paint: (box: Box) => Paint|null, legend: {text: string, fill: string}[]}}
 */
export function painter(mode, metrics, boxes) {
  if (mode.kind) return byKind(mode, boxes);
  const { amount, tell } = mode;
  if (!amount || !tell) return { paint: () => null, legend: [] };
  const amounts = boxes.map((box) => amount(metrics.of(box)));
  const most = mode.whole ?? Math.max(1e-9, ...amounts.filter(Number.isFinite));
  const part = (/** @type {number} */ value) => {
    if (!Number.isFinite(value)) return 1;
    return mode.whole ? value / most : Math.sqrt(value / most);
  };
  const steps = (mode.whole ? [0.1, 0.4, 0.7, 1] : [0.01, 0.1, 0.4, 1]).map((share) => share * most);
  return {
    paint: (box) => {
      const value = amount(metrics.of(box));
      return value > 0 ? painted(mixed(part(value))) : null;
    },
    legend: [...steps, ...(amounts.includes(Infinity) ? [Infinity] : [])].map((value) => (
      { text: tell(value), fill: mixed(part(value)) })),
  };
}

/** @param {Mode} mode @param {Box[]} boxes */
function byKind(mode, boxes) {
  const kind = /** @type {(box: Box) => string} */ (mode.kind);
  const fixed = /** @type {Record<string, string>} */ (
    mode.id === "training" ? TRAINING : mode.id === "difference" ? DIFFERENCES : {});
  const words = [...new Set(boxes.map(kind).filter(Boolean))].sort();
  const fills = new Map(words.map((word, number) => [word, fixed[word] || KINDS[number % KINDS.length]]));
  return {
    paint: (/** @type {Box} */ box) => {
      const fill = fills.get(kind(box));
      return fill ? painted(fill) : null;
    },
    legend: [...fills].map(([text, fill]) => ({ text, fill })),
  };
}

/** @param {number} part 0 to 1 */
function mixed(part) {
  const at = Math.min(1, Math.max(0, part)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const [one, two] = [rgb(RAMP[low]), rgb(RAMP[low + 1])];
  const share = at - low;
  return `#${one.map((value, n) => Math.round(value + (two[n] - value) * share).toString(16).padStart(2, "0")).join("")}`;
}

/** @param {string} hex */
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** @param {string} fill @returns {Paint} */
function painted(fill) {
  const [r, g, b] = rgb(fill).map((value) => (value / 255) ** 2.2);
  return { fill, text: 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.3 ? "#101418" : "#ffffff" };
}

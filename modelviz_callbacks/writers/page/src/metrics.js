/** What boxes hold, summed: parameters, FLOPs, bytes, time; and in which kind they are. */

import { scopeOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {{ops: number, params: number, trainable: number, weightBytes: number, flops: number|null,
 *   atLeast: boolean, made: number, time: number, dtype: string, device: string}} Sums
 */

export class Metrics {
  /** @param {import("./tree.js").Tree} tree */
  constructor(tree) {
    this.tree = tree;
    /** @type {Map<string, Sums>} */ this._known = new Map();
  }

  /** @param {Box} box @returns {Sums} */
  of(box) {
    const key = `${box.id} ${box.kind}`;
    let sums = this._known.get(key);
    if (!sums) this._known.set(key, (sums = this._sum(box)));
    return sums;
  }

  /** @param {Box} box @returns {Sums} */
  _sum(box) {
    const { graph } = this.tree;
    const items = box === this.tree.root ? graph.items[0] : box.copies.length ? box.copies.flat() : box.items;
    const weighed = box.shared ? box.items : items;
    const weights = box === this.tree.root ? graph.scopes[0] : this._weights(weighed, box);
    /** @type {number|null} */ let flops = null;
    let made = 0, time = 0, atLeast = false;
    const ops = box.kind === "held" ? [] : items.flatMap((item) => graph.opsIn(item));
    for (const number of ops) {
      const node = graph.nodes[number];
      if (node.flops !== null) flops = (flops ?? 0) + node.flops;
      if (node.flags & 16) atLeast = true;
      if (graph.times) time += graph.times[number];
      if (graph.isCall(number))
        for (let tensor = node.first; tensor < node.first + node.outs; tensor++) made += graph.spec(tensor).bytes;
    }
    const count = ops.filter((number) => graph.isCall(number)).length;
    const out = this.tree.outputsOf(box)[0];
    const spec = out === undefined ? null : graph.spec(out);
    return { ops: count, params: weights.params, trainable: weights.trainable, weightBytes: weights.bytes,
      flops, atLeast, made, time, dtype: spec?.dtype || "", device: spec?.device || "" };
  }

  /** Parameters of modules, and those that ops read directly. @param {number[]} items @param {Box} box */
  _weights(items, box) {
    const { graph } = this.tree;
    const sum = { params: 0, trainable: 0, bytes: 0 };
    const seen = new Set();
    const add = (/** @type {number} */ tensor) => {
      const spec = graph.spec(tensor);
      const count = (spec.shape || []).reduce((one, two) => one * two, 1);
      sum.params += count;
      if (spec.grad) sum.trainable += count;
      sum.bytes += spec.bytes;
    };
    for (const item of items) {
      if (item < 0) {
        const { path, again, params, trainable, bytes } = graph.scopes[-item];
        if (seen.has(path ?? -item) || (again && items.length > 1)) continue;
        seen.add(path ?? -item);
        sum.params += params;
        sum.trainable += trainable;
        sum.bytes += bytes;
        continue;
      }
      const node = graph.nodes[item];
      const held = box.kind === "held" ? [node.first] : graph.reads[item];
      for (const tensor of held)
        if (graph.nodes[graph.producer[tensor]].kind === "parameter" && !seen.has(`t${tensor}`)) {
          seen.add(`t${tensor}`);
          add(tensor);
        }
    }
    return sum;
  }

  /** ``trainable``, ``frozen``, ``partly frozen``, or nothing. @param {Box} box */
  training(box) {
    const { params, trainable } = this.of(box);
    if (!params) return "";
    return trainable === params ? "trainable" : trainable ? "partly frozen" : "frozen";
  }

  /** Whether it is one module. @param {Box} box */
  scope(box) {
    return scopeOf(box);
  }
}

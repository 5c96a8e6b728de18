/** What boxes hold, summed: parameters, FLOPs, memory, time, health; and in which kind they are. */

import { scopeOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {{ops: number, params: number, trainable: number, weightBytes: number, flops: number|null,
 *   atLeast: boolean, made: number, kept: number, peak: number, gradientBytes: number, optimizer: number,
 *   time: number, backward: number, limit: string, gradient: number, update: number, weight: number,
 *   zeros: number, elements: number, dtype: string, device: string}} Sums
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
    const isRoot = box === this.tree.root;
    const weights = isRoot ? this._ofModel() : this._weights(weighed, box);
    let zeros = 0, elements = 0;
    for (const item of isRoot ? [0] : box.kind === "held" ? [] : items) {
      const seen = item > 0 || (!item && !isRoot) ? null : graph.health?.scopes[-item];
      zeros += seen?.[0] ?? 0;
      elements += seen?.[1] ?? 0;
    }
    /** @type {number|null} */ let flops = null;
    let made = 0, kept = 0, peak = 0, time = 0, backward = 0, atLeast = false;
    const ops = box.kind === "held" ? [] : items.flatMap((item) => graph.opsIn(item));
    for (const number of ops) {
      const node = graph.nodes[number];
      if (node.flops !== null) flops = (flops ?? 0) + node.flops;
      if (node.flags & 16) atLeast = true;
      time += graph.times?.[number] ?? 0;
      backward += graph.backward?.[number] ?? 0;
      kept += graph.kept?.[number] ?? 0;
      peak = Math.max(peak, graph.live?.[number] ?? 0);
      if (graph.isCall(number))
        for (let tensor = node.first; tensor < node.first + node.outs; tensor++) made += graph.spec(tensor).bytes;
    }
    for (const scope of graph.compiled.size && box.kind !== "held" ? items.flatMap((item) => graph.scopesIn(item)) : []) {
      time += graph.compiled.get(scope)?.[0] ?? 0;
      backward += graph.compiled.get(scope)?.[1] ?? 0;
    }
    const count = ops.filter((number) => graph.isCall(number)).length;
    const out = this.tree.outputsOf(box)[0];
    const spec = out === undefined ? null : graph.spec(out);
    return { ops: count, params: weights.params, trainable: weights.trainable, weightBytes: weights.bytes,
      flops, atLeast, made, kept, peak, gradientBytes: weights.gradientBytes, optimizer: weights.optimizer, time, backward,
      limit: ops.length === 1 ? graph.limits.get(ops[0]) ?? "" : "", gradient: weights.gradient, update: weights.update, weight: weights.weight, zeros, elements,
      dtype: spec?.dtype || "", device: spec?.device || "" };
  }

  /** The weights of the whole model. */
  _ofModel() {
    const { graph } = this.tree;
    const gradientBytes = graph.parameters.reduce((sum, { spec, trainable }) => sum + (trainable ? spec.bytes : 0), 0);
    return { ...graph.scopes[0], ...this._seen(0), gradientBytes, optimizer: graph.optimizer?.scopes[0] ?? 0 };
  }

  /** Bytes of the gradients of a scope's parameters. @param {string|null} path */
  _gradientBytes(path) {
    let sum = 0;
    for (const { module, spec, trainable } of this.tree.graph.parameters)
      if (trainable && path !== null && (module === path || !path || module.startsWith(`${path}.`))) sum += spec.bytes;
    return sum;
  }

  /** The sums of squares of a scope, or of a node. @param {number} scope @param {number} [node] */
  _seen(scope, node) {
    const { health } = this.tree.graph;
    const row = node === undefined ? health?.scopes[scope]?.slice(2) : health?.nodes[node];
    const [gradient, update, weight] = (row ?? [0, 0, 0]).map((one) => one ?? Infinity);
    return { gradient, update, weight };
  }

  /** Parameters of modules, and those that ops read directly. @param {number[]} items @param {Box} box */
  _weights(items, box) {
    const { graph } = this.tree;
    const sum = { params: 0, trainable: 0, bytes: 0, gradientBytes: 0, optimizer: 0, gradient: 0, update: 0, weight: 0 };
    const addSeen = (/** @type {{gradient: number, update: number, weight: number}} */ seen) => {
      sum.gradient += seen.gradient;
      sum.update += seen.update;
      sum.weight += seen.weight;
    };
    const seen = new Set();
    const add = (/** @type {number} */ tensor) => {
      const spec = graph.spec(tensor);
      const count = (spec.shape || []).reduce((one, two) => one * two, 1);
      sum.params += count;
      if (spec.grad) sum.trainable += count;
      sum.bytes += spec.bytes;
      if (spec.grad) sum.gradientBytes += spec.bytes;
      sum.optimizer += graph.optimizer?.nodes.get(graph.producer[tensor]) ?? 0;
      addSeen(this._seen(0, graph.producer[tensor]));
    };
    for (const item of items) {
      if (item < 0) {
        const { path, again, params, trainable, bytes } = graph.scopes[-item];
        if (seen.has(path ?? -item) || (again && items.length > 1)) continue;
        seen.add(path ?? -item);
        sum.params += params;
        sum.trainable += trainable;
        sum.bytes += bytes;
        sum.gradientBytes += this._gradientBytes(path);
        sum.optimizer += graph.optimizer?.scopes[-item] ?? 0;
        addSeen(this._seen(-item));
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

/**
 * One recorded graph as typed columns: nodes, tensors, scopes, and who reads what.
 *
 * Scope 0 is the model's own forward; tensors are numbered in the order in which they were made.
 * An item of a scope is a node (its number) or a module call (minus its number).
 */

export const KINDS = ["input", "parameter", "buffer", "constant", "op", "opaque", "output"];

/** Flags of a node. */
export const READS_VALUE = 1, LAYOUT = 2, IN_PLACE = 4, BOOKKEEPING = 8;
/** Flags of a scope. */
export const CALLED = 1, TRAINING = 2, LEAF = 4;

/**
 * @typedef {{shape: number[]|null, dtype: string, device: string, grad: boolean, bytes: number,
 *   layout: string}} Spec
 * @typedef {{path: string, tensor: number}} Port
 * @typedef {{name: string, segments: (string|number)[]}} Argument
 * @typedef {{start: number, period: number, times: number, shared: boolean, varies: string}} Fold
 * @typedef {{label: string, name: string, parent: number, home: number, path: string|null,
 *   cls: string, flags: number, again: number, short: string, detail: string, inputs: Port[],
 *   outputs: Port[], params: number, trainable: number, bytes: number, tied: string,
 *   status: string, was: string}} Scope
 * @typedef {{kind: string, op: string, scope: number, home: number, label: string, path: string,
 *   target: string, file: string, line: number, func: string, first: number, outs: number,
 *   args: Argument[], flags: number, flops: number|null, detail: string, aliases: string[],
 *   status: string, was: string}} Node
 * @typedef {{name: string, spec: Spec, trainable: boolean, module: string, aliases: string[]}} Parameter
 */

/** @param {Spec} spec */
export function shapeText(spec) {
  if (!spec.shape) return "?";
  return spec.shape.length ? spec.shape.join("×") : "scalar";
}

export class Graph {
  /** @param {any} raw @param {Record<string, any[][]>} [code] rows of lines that follow each other,
   *   by file: the number of the first, and their texts */
  constructor(raw, code = {}) {
    /** @type {Map<string, Map<number, string>>} */
    this.code = new Map(Object.entries(code).map(([file, rows]) =>
      [file, new Map(rows.flatMap(([first, ...texts]) => texts.map((text, at) => /** @type {[number, string]} */ ([first + at, text]))))]));
    /** @type {string} */ this.label = raw.label;
    /** @type {string} */ this.name = raw.name;
    /** @type {string} */ this.cls = raw.cls;
    this.partial = !!raw.partial;
    /** @type {[string, string, string][]} kind, subject, message */ this.notes = raw.notes;
    /** @type {{kind: string, text: string, target: string}[]} */
    this.differences = raw.differences || [];
    const words = /** @type {string[]} */ (raw.words);
    /** @type {Spec[]} */
    this.specs = raw.specs.map((/** @type {any[]} */ row) => ({
      shape: row[0], dtype: words[row[1]], device: words[row[2]], grad: !!row[3], bytes: row[4],
      layout: words[row[5]],
    }));
    /** @type {Scope[]} */ this.scopes = [];
    for (const row of raw.scopes) this.scopes.push(this._scope(row, words));
    /** @type {Node[]} */ this.nodes = [];
    /** @type {number[]} */ const producers = [];
    /** @type {number[]} */ const specs = [];
    for (const row of raw.nodes) {
      const node = this._node(row, words, producers.length);
      for (const spec of row[9] || []) {
        producers.push(this.nodes.length);
        specs.push(spec);
      }
      this.nodes.push(node);
    }
    /** The node that made each tensor. */
    this.producer = Int32Array.from(producers);
    this.tensorSpec = Int32Array.from(specs);
    /** @type {number[][]} items of each scope, in the order in which they ran */
    this.items = raw.items;
    /** @type {Map<number, Fold[]>} by scope; those of a copy are its first copy's */
    this._folds = new Map();
    for (const [scope, start, period, times, shared, varies] of raw.folds) {
      const fold = { start, period, times, shared: !!shared, varies: varies || "" };
      this._folds.set(scope, [...(this._folds.get(scope) || []), fold]);
    }
    /** @type {Float64Array|null} microseconds by node */
    this.times = raw.times ? Float64Array.from(raw.times) : null;
    /** @type {Float64Array|null} microseconds of the backward by node */
    this.backward = raw.backward ? Float64Array.from(raw.backward) : null;
    /** @type {Float64Array|null} bytes kept for the backward by node */
    this.kept = raw.kept ? Float64Array.from(raw.kept) : null;
    /** @type {Float64Array|null} bytes alive at the end of each node */
    this.live = raw.live ? Float64Array.from(raw.live) : null;
    /** Microseconds, forward and backward, of scopes that ran compiled: no op of theirs has a time.
     * @type {Map<number, [number, number]>} */
    this.compiled = new Map((raw.compiled || []).map((/** @type {number[]} */ [scope, ...both]) => [scope, both]));
    /** How near nodes came to the machine's peak. @type {Map<number, string>} */
    this.limits = new Map(raw.limits || []);
    /** Bytes that optimizers keep, by scope and by parameter's node. @type {{scopes: number[], nodes: Map<number, number>}|null} */
    this.optimizer = raw.optimizer ? { scopes: raw.optimizer.scopes, nodes: new Map(raw.optimizer.nodes) } : null;
    /** What was seen in one later step: of scopes zeros, elements and sums of squares (of gradients,
     * updates and weights), of parameters' nodes these sums; null is not finite.
     * @type {{step: number, scopes: (number|null)[][], nodes: Record<string, (number|null)[]>}|null} */
    this.health = raw.health || null;
    /** @type {Parameter[]} */
    this.parameters = raw.parameters.map((/** @type {any[]} */ row) => ({
      name: row[0], spec: this.specs[row[1]], trainable: !!row[2], module: row[3] || "",
      aliases: row[4] || [],
    }));
    /** @type {number[][]} tensors that each node reads, each once */ this.reads = [];
    /** @type {number[][]} nodes that read each tensor */ this.readers = [];
    this.placeOfNode = new Int32Array(this.nodes.length).fill(-1);
    this.placeOfScope = new Int32Array(this.scopes.length).fill(-1);
    this._wire();
    this._place();
  }

  /** @param {any[]} row @param {string[]} words @returns {Scope} */
  _scope(row, words) {
    const number = this.scopes.length;
    const parent = row[1];
    const around = number ? this.scopes[parent] : null;
    const ports = (/** @type {any[]} */ rows) =>
      (rows || []).map(([path, tensor]) => ({ path, tensor }));
    const called = !number || (row[4] & CALLED);
    return {
      label: row[0],
      name: around && around.name ? `${around.name}/${row[0]}` : row[0],
      parent,
      // The scope whose items it is among, or, of a container, its items are.
      home: around ? (around.flags & CALLED || !parent ? parent : around.home) : 0,
      path: row[2] === 0 ? null : row[2],
      cls: words[row[3]], flags: called ? row[4] | CALLED : row[4], again: row[5],
      inputs: ports(row[6]), outputs: ports(row[7]), detail: row[8] || "", params: row[9] || 0,
      trainable: row[10] || 0, bytes: row[11] || 0, tied: row[12] || "", short: row[13] || row[0],
      status: row[14] || "", was: row[15] || "",
    };
  }

  /** @param {any[]} row @param {string[]} words @param {number} first @returns {Node} */
  _node(row, words, first) {
    const scope = row[2];
    return {
      kind: KINDS[row[0]], op: words[row[1]], scope,
      home: this.scopes[scope].flags & CALLED ? scope : this.scopes[scope].home,
      label: row[3], path: row[4] || "", target: words[row[5]], file: words[row[6]],
      line: row[7] || 0, func: words[row[8]], first, outs: (row[9] || []).length,
      args: (row[10] || []).map((/** @type {any[]} */ one) =>
        ({ name: words[one[0]], segments: one.slice(1) })),
      flags: row[11] || 0, flops: row[12] ?? null, detail: row[13] || "", aliases: row[14] || [],
      status: row[15] || "", was: row[16] || "",
    };
  }

  /** Who reads what. */
  _wire() {
    this.reads = this.nodes.map((node) => {
      const found = new Set();
      for (const { segments } of node.args)
        for (const one of segments) if (typeof one === "number") found.add(one);
      return [...found];
    });
    this.readers = Array.from(this.producer, () => []);
    this.reads.forEach((tensors, node) => tensors.forEach((one) => this.readers[one].push(node)));
  }

  /** The place of each item among those of its scope. */
  _place() {
    for (const items of this.items)
      (items || []).forEach((item, place) => {
        if (item < 0) this.placeOfScope[-item] = place;
        else this.placeOfNode[item] = place;
      });
  }

  /** @param {number} node */
  nodeName(node) {
    const { scope, label } = this.nodes[node];
    const around = this.scopes[scope].name;
    return around ? `${around}/${label}` : label;
  }

  /** @param {number} tensor @returns {Spec} */
  spec(tensor) {
    return this.specs[this.tensorSpec[tensor]];
  }

  /** What people call a tensor. @param {number} tensor */
  tensorName(tensor) {
    const number = this.producer[tensor];
    const node = this.nodes[number];
    const name = node.path && !this.isCall(number) ? node.path : this.nodeName(number);
    return node.outs > 1 ? `${name}[${tensor - node.first}]` : name;
  }

  /** The lines of source around what some nodes come from; none where they were not read, or are of
   * several files. @param {number[]} nodes @param {number} around
   * @returns {{number: number, text: string, isMeant: boolean}[]} */
  codeOf(nodes, around) {
    const of = nodes.map((node) => this.nodes[node]).filter(({ file }) => file);
    const lines = of.length && of.every(({ file }) => file === of[0].file) ? this.code.get(of[0].file) : null;
    if (!lines) return [];
    const meant = new Set(of.map(({ line }) => line));
    /** @type {Set<number>} */ const near = new Set();
    for (const line of meant) for (let number = line - around; number <= line + around; number++) near.add(number);
    return [...near].sort((one, two) => one - two).filter((number) => lines.has(number))
      .map((number) => ({ number, text: lines.get(number) || "", isMeant: meant.has(number) }));
  }

  /** @param {number} node */
  isCall(node) {
    const { kind } = this.nodes[node];
    return kind === "op" || kind === "opaque";
  }

  /** Whether it is a parameter, a buffer or a constant. @param {number} node */
  isHeld(node) {
    const { kind } = this.nodes[node];
    return kind === "parameter" || kind === "buffer" || kind === "constant";
  }

  /** The ops that the code of a scope runs itself: its own, and those of torch's layers that it calls.
   * @param {number} scope */
  ownSteps(scope) {
    return (this.items[scope] || []).flatMap((item) => {
      if (item >= 0) return [item];
      const { flags, cls } = this.scopes[-item];
      return flags & LEAF && cls.startsWith("torch.") ? this.opsIn(item) : [];
    }).filter((node) => this.isCall(node));
  }

  /** The ops in an item, in order. @param {number} item @param {number[]} [into] */
  opsIn(item, into = []) {
    if (item >= 0) into.push(item);
    else for (const inner of this.items[-item] || []) this.opsIn(inner, into);
    return into;
  }

  /** The scopes in an item, itself among them. @param {number} item @returns {number[]} */
  scopesIn(item) {
    return item >= 0 ? [] : [-item, ...(this.items[-item] || []).flatMap((inner) => this.scopesIn(inner))];
  }

  /** The repeats among the items of a scope. @param {number} scope @returns {Fold[]} */
  folds(scope) {
    return this._folds.get(scope) || this._folds.get(this.twin(scope)) || [];
  }

  /** The scope in a first copy that a scope is a copy of; itself if it is none. @param {number} scope
   * @returns {number} */
  twin(scope) {
    if (!scope) return 0;
    const home = this.scopes[scope].home;
    const place = this.placeOfScope[scope];
    if (place < 0) return scope;
    const first = this.twin(home);
    let at = place;
    for (const { start, period, times } of this._folds.get(first) || [])
      if (place >= start && place < start + period * times) at = start + ((place - start) % period);
    const item = (this.items[first] || [])[at];
    return item < 0 ? -item : scope;
  }

  /** @param {string} name @returns {{node: number}|{scope: number}|null} */
  find(name) {
    if (!this._names) {
      /** @type {Map<string, {node: number}|{scope: number}>} */
      this._names = new Map();
      this.nodes.forEach((_, node) => this._names?.set(this.nodeName(node), { node }));
      this.scopes.forEach((scope, number) => number && this._names?.set(scope.name, { scope: number }));
    }
    return this._names.get(name) || null;
  }
}

/**
 * The boxes of a graph, made as they are opened: modules, ops, repeats, chains of layout ops, parts
 * of scopes that are too long for one picture, and the ends of the graph.
 */

import { CALLED, LAYOUT, LEAF, BOOKKEEPING, shapeText } from "./graph.js";

/** A scope with more boxes than this is shown in parts. */
const MOST_CHILDREN = 64;
const MOST_IN_A_PART = 40;
/** More inputs or outputs than this are one box, until it is opened. */
const MOST_ENDS = 6;

/**
 * @typedef {"scope"|"op"|"layout"|"repeat"|"copy"|"part"|"held"|"input"|"output"|"ends"} BoxKind
 *
 * @typedef {object} Box
 * @property {string} id the name of its node or module call; what groups several has one of its own
 * @property {BoxKind} kind
 * @property {Box|null} parent
 * @property {number[]} items the items it stands for, of the first copy where it is repeated
 * @property {number} scope the scope whose items these are
 * @property {number} times how often it is repeated
 * @property {number[][]} copies the items of every copy, if there are several
 * @property {boolean} shared whether the copies use the same parameters
 * @property {string} varies what differs between copies
 * @property {string} title
 * @property {string} label its name, where that says more than the title
 * @property {string} detail
 * @property {Box[]|null} children once they were asked for
 * @property {number[]} merged scopes that are opened with it, as they are all that is in it
 * @property {number[]|null} nodes the nodes it draws, once they were asked for
 */

/** @param {Box} box The scope that a box is, or 0. */
export function scopeOf(box) {
  return box.items.length === 1 && box.items[0] < 0 ? -box.items[0] : 0;
}

export class Tree {
  /** @param {import("./graph.js").Graph} graph */
  constructor(graph) {
    this.graph = graph;
    /** @type {Set<string>} ids of repeats that are shown copy by copy */
    this.unrolled = new Set();
    this.bookkeeping = true;
    /** @type {Map<string, Box>} */ this.byId = new Map();
    /** @type {(Box|undefined)[]} the innermost box known of each node */ this.boxOfNode = [];
    /** @type {(Box|undefined)[]} the innermost box known of each scope */ this.boxOfScope = [];
    this.root = this._start();
  }

  /** Forgets all boxes: what is unrolled or hidden has changed. */
  rebuild() {
    this.root = this._start();
  }

  _start() {
    const { graph } = this;
    this.byId = new Map();
    this.boxOfNode = new Array(graph.nodes.length);
    this.boxOfScope = new Array(graph.scopes.length);
    const root = this._box("", "scope", null, graph.items[0], 0, { title: graph.name });
    this.boxOfScope[0] = root;
    return root;
  }

  /** @param {string} id @param {BoxKind} kind @param {Box|null} parent @param {number[]} items
   * @param {number} scope @param {Partial<Box>} more @returns {Box} */
  _box(id, kind, parent, items, scope, more) {
    let unique = id;
    while (this.byId.has(unique)) unique += "'";
    const box = {
      id: unique, kind, parent, items, scope, times: 1, copies: [], shared: false, varies: "",
      title: "", label: "", detail: "", children: null, merged: [], nodes: null, ...more,
    };
    this.byId.set(unique, box);
    return box;
  }

  /** @param {Box} box */
  canOpen(box) {
    if (box.kind === "op" || box.kind === "held" || box.kind === "input" || box.kind === "output")
      return false;
    return this.childrenOf(box).length > 0;
  }

  /** Whether a node is beside the main path, and that is not shown. @param {number} node */
  isHidden(node) {
    return !this.bookkeeping && (this.graph.nodes[node].flags & BOOKKEEPING) !== 0;
  }

  /** What a box was in the graph before, where two are compared. @param {Box} box */
  wasOf(box) {
    if (box.items.length !== 1 || box.kind === "held") return "";
    const [item] = box.items;
    return (item < 0 ? this.graph.scopes[-item] : this.graph.nodes[item]).was;
  }

  /** What a box reads of what is hidden, by the names of its arguments. @param {Box} box @returns {string[]} */
  besides(box) {
    const { graph } = this;
    if (this.bookkeeping || box.kind === "held" || box.kind === "ends") return [];
    /** @type {Set<string>} */ const names = new Set();
    const scope = scopeOf(box);
    const ports = new Map(scope ? graph.scopes[scope].inputs.map(({ path, tensor }) => [tensor, path]) : []);
    const inside = new Set(this.nodesOf(box));
    for (const node of inside) {
      if (this.isHidden(node)) continue;
      for (const tensor of graph.reads[node]) {
        const producer = graph.producer[tensor];
        if (!this.isHidden(producer) || inside.has(producer)) continue;
        const own = graph.nodes[node].args.find(({ segments }) => segments.includes(tensor));
        names.add(ports.get(tensor) || (scope ? graph.tensorName(tensor).replace(/^.*\//, "") : own?.name) || "");
      }
    }
    // What every layer calls its input says nothing.
    return [...names].filter((name) => name && name !== "input" && name !== "x");
  }

  /** Whether it is told as one thing at first. @param {Box} box */
  isLeaf(box) {
    if (box.kind === "repeat" || box.kind === "scope") {
      const scope = scopeOf(box);
      return scope ? !!(this.graph.scopes[scope].flags & LEAF) : false;
    }
    return true;
  }

  /** @param {Box} box @returns {Box[]} */
  childrenOf(box) {
    if (!box.children) box.children = this._build(box);
    return box.children;
  }

  /** @param {Box} box @returns {Box[]} */
  _build(box) {
    if (["op", "held", "input", "output"].includes(box.kind)) return [];
    if (box.kind === "ends") return this._ends(box, box.items, 0);
    if (box.kind === "layout") return box.items.map((item) => this._item(item, box.scope, box));
    if (box.kind === "part") return this._split(this._entries(box.items, box.scope, box), box);
    const scope = scopeOf(box);
    let found;
    if (box === this.root) found = this._rootBoxes(box);
    else if (scope) found = this._inside(box, scope);
    else found = this._entries(box.items, box.scope, box, false);
    if (box.kind === "repeat" && !scope) this._mapCopies(box, found);
    return found;
  }

  /** @param {Box} box */
  _rootBoxes(box) {
    const { graph } = this;
    const of = (/** @type {string} */ kind) =>
      graph.nodes.flatMap((node, number) => (node.kind === kind && !this.isHidden(number) ? [number] : []));
    const inside = this._split(this._entries(graph.items[0], 0, box), box);
    return [...this._ends(box, of("input"), MOST_ENDS), ...inside,
      ...this._ends(box, of("output"), MOST_ENDS)];
  }

  /** Inputs or outputs; what is in one structure (a cache of keys and values) is one box.
   * @param {Box} box @param {number[]} nodes @param {number} most 0: as many as there are */
  _ends(box, nodes, most) {
    if (!most || nodes.length <= most) return nodes.map((node) => this._end(box, node));
    /** @type {Map<string, number[]>} */ const groups = new Map();
    for (const node of nodes) {
      const [root] = this.graph.nodes[node].path.replace(/^out(put)?\./, "").split(/[.[]/);
      groups.set(root, [...(groups.get(root) || []), node]);
    }
    if (groups.size > most) return [this._endGroup(box, nodes, "")];
    return [...groups].map(([root, some]) => (some.length > 2 ? [this._endGroup(box, some, root)] : some.map((node) => this._end(box, node)))).flat();
  }

  /** @param {Box} box @param {number[]} nodes @param {string} root */
  _endGroup(box, nodes, root) {
    const { graph } = this;
    const { kind } = graph.nodes[nodes[0]];
    const names = nodes.slice(0, 3).map((node) => graph.nodes[node].path.replace(/^out\./, ""));
    const made = this._box(`:${kind}s ${root}`, "ends", box, nodes, 0,
      root ? { title: root, label: `${nodes.length} tensors` } : { title: `${nodes.length} ${kind}s`, label: `${names.join(", ")}, …` });
    for (const node of nodes) this.boxOfNode[node] = made;
    return made;
  }

  /** @param {Box} box @param {number} node */
  _end(box, node) {
    const { graph } = this;
    const { path, label, aliases, kind } = graph.nodes[node];
    const title = [path || label, ...aliases].join(", ");
    const made = this._box(graph.nodeName(node), /** @type {BoxKind} */ (kind), box, [node], 0, { title });
    this.boxOfNode[node] = made;
    return made;
  }

  /** What is in a module call; one call that is all there is in another is opened with it.
   * @param {Box} box @param {number} scope */
  _inside(box, scope) {
    let inner = scope;
    for (;;) {
      const items = this._ran(this.graph.items[inner]);
      if (items.length !== 1 || items[0] >= 0) break;
      const only = -items[0];
      if (this.graph.scopes[only].flags & LEAF) break;
      box.merged.push(only);
      this.boxOfScope[only] = box;
      inner = only;
    }
    return this._split(this._entries(this.graph.items[inner], inner, box), box);
  }

  /** Items in which something was computed. @param {number[]} items */
  _ran(items) {
    return items.filter((item) => {
      if (item < 0) return this.graph.opsIn(item).some((node) => !this.isHidden(node));
      return !this.isHidden(item);
    });
  }

  /** Boxes for consecutive items of a scope. @param {number[]} items @param {number} scope
   * @param {Box} parent @param {boolean} [folding] */
  _entries(items, scope, parent, folding = true) {
    const { graph } = this;
    const folds = folding ? new Map(graph.folds(scope).map((fold) => [fold.start, fold])) : new Map();
    const place = (/** @type {number} */ item) =>
      item < 0 ? graph.placeOfScope[-item] : graph.placeOfNode[item];
    /** @type {Box[]} */ const found = [];
    /** @type {number[]} */ let plain = [];
    const flush = () => {
      found.push(...this._plain(this._ran(plain), scope, parent));
      plain = [];
    };
    for (let at = 0; at < items.length; at++) {
      const fold = folds.get(place(items[at]));
      const length = fold ? fold.period * fold.times : 0;
      if (!fold || at + length > items.length || place(items[at + length - 1]) !== fold.start + length - 1) {
        plain.push(items[at]);
        continue;
      }
      flush();
      found.push(...this._repeat(items.slice(at, at + length), scope, parent, fold));
      at += length - 1;
    }
    flush();
    return found;
  }

  /** @param {number[]} items @param {number} scope @param {Box} parent
   * @param {import("./graph.js").Fold} fold @returns {Box[]} */
  _repeat(items, scope, parent, fold) {
    const copies = [];
    for (let at = 0; at < items.length; at += fold.period) copies.push(items.slice(at, at + fold.period));
    const first = copies[0];
    if (!this._ran(first).length) return [];
    const id = `${this._nameOf(first[0])}/*`;
    if (this.unrolled.has(id)) return this._unrolled(id, copies, scope, parent);
    const more = { times: fold.times, copies, shared: fold.shared, varies: fold.varies };
    const box = this._box(first.length === 1 ? this._nameOf(first[0]) : id, "repeat", parent, first,
      scope, { ...more, ...this._words(first, scope) });
    box.label = this._rangeLabel(copies);
    for (const copy of copies) for (const item of copy) this._home(item, box);
    return [box];
  }

  /** @param {string} id @param {number[][]} copies @param {number} scope @param {Box} parent */
  _unrolled(id, copies, scope, parent) {
    return copies.map((copy, number) => {
      if (copy.length === 1) return this._item(copy[0], scope, parent);
      const words = this._words(copy, scope);
      const box = this._box(`${this._nameOf(copy[0])}/*`, "copy", parent, copy, scope,
        { ...words, label: `${number + 1} of ${copies.length}` });
      for (const item of copy) this._home(item, box);
      return box;
    });
  }

  /** A box is where an item is drawn, until a box inside of it is made.
   * @param {number} item @param {Box} box */
  _home(item, box) {
    if (item < 0) this.boxOfScope[-item] = box;
    else this.boxOfNode[item] = box;
  }

  /** What is in further copies of a pattern is drawn where it is in the first.
   * @param {Box} box @param {Box[]} children */
  _mapCopies(box, children) {
    /** @type {Map<number, Box>} */ const at = new Map();
    const visit = (/** @type {Box} */ child) => {
      for (const item of child.items) at.set(item, child);
      if (child.kind === "part") this.childrenOf(child).forEach(visit);
    };
    children.forEach(visit);
    for (const copy of box.copies.slice(1))
      copy.forEach((item, place) => {
        const child = at.get(box.items[place]);
        if (child) this._home(item, child);
      });
  }

  /** Items that do not repeat: chains of layout ops are one box.
   * @param {number[]} items @param {number} scope @param {Box} parent */
  _plain(items, scope, parent) {
    const { graph } = this;
    /** @type {Box[]} */ const found = [];
    /** @type {number[]} */ let chain = [];
    const isLayout = (/** @type {number} */ item) =>
      item >= 0 && (graph.nodes[item].flags & LAYOUT) !== 0 && parent.kind !== "layout";
    const flush = () => {
      if (chain.length === 1) found.push(this._item(chain[0], scope, parent));
      else if (chain.length) {
        const box = this._box(`${this._nameOf(chain[0])}/~`, "layout", parent, chain, scope,
          this._words(chain, scope));
        for (const item of chain) this._home(item, box);
        found.push(box);
      }
      chain = [];
    };
    for (const item of items) {
      if (chain.length && !(isLayout(item) && this._onlyReads(item, chain[chain.length - 1]))) flush();
      if (isLayout(item)) chain.push(item);
      else {
        flush();
        found.push(this._item(item, scope, parent));
      }
    }
    flush();
    return found;
  }

  /** Whether an op reads nothing but the one before, and is its only reader.
   * @param {number} item @param {number} before */
  _onlyReads(item, before) {
    const { graph } = this;
    if (graph.reads[item].some((tensor) => graph.producer[tensor] !== before)) return false;
    const { first, outs } = graph.nodes[before];
    for (let tensor = first; tensor < first + outs; tensor++)
      if (graph.readers[tensor].some((reader) => reader !== item)) return false;
    return graph.reads[item].length > 0;
  }

  /** @param {number} item @param {number} scope @param {Box} parent @returns {Box} */
  _item(item, scope, parent) {
    const kind = item < 0 ? "scope" : "op";
    const box = this._box(this._nameOf(item), kind, parent, [item], scope, this._words([item], scope));
    this._home(item, box);
    return box;
  }

  /** @param {number} item */
  _nameOf(item) {
    return item < 0 ? this.graph.scopes[-item].name : this.graph.nodeName(item);
  }

  /** @param {number} item */
  _title(item) {
    if (item >= 0) return this.graph.nodes[item].op;
    return typeName(this.graph.scopes[-item].cls);
  }

  /** @param {number[]} items @param {number} scope @returns {Partial<Box>} */
  _words(items, scope) {
    const { graph } = this;
    if (items.length === 1 && items[0] < 0) {
      const { short, detail, tied } = graph.scopes[-items[0]];
      return { title: this._title(items[0]), label: short, detail: [tied && `tied to ${tied}`, detail].filter(Boolean).join(", ") };
    }
    if (items.length === 1) {
      const node = graph.nodes[items[0]];
      return { title: node.op, label: "", detail: node.detail };
    }
    const titles = items.map((item) => this._title(item));
    const shown = titles.length > 3 ? [titles[0], "…", titles[titles.length - 1]] : titles;
    return { title: shown.join(", "), label: "", detail: "" };
  }

  /** ``layer.0–11``, ``query.0–5, key.0–5``. @param {number[][]} copies */
  _rangeLabel(copies) {
    let [first, last] = [copies[0], copies[copies.length - 1]].map((copy) => this._called(copy));
    if (!first.length) return "";
    const lists = new Set(first.map((name) => name.slice(0, Math.max(0, name.lastIndexOf(".")))));
    if (lists.size < first.length) [first, last] = [first.slice(0, 1), last.slice(-1)]; // what stands in one list is one range
    const ranges = first.map((name, at) => rangeOf(name, last[at]));
    return [...ranges.slice(0, 3), ...(ranges.length > 3 ? ["…"] : [])].join(", ");
  }

  /** The modules that one copy calls, each once. @param {number[]} copy */
  _called(copy) {
    const names = copy.filter((item) => item < 0).map((item) => this.graph.scopes[-item].short.replace(/ \(call \d+\)$/, ""));
    return [...new Set(names)];
  }

  /** Boxes that are too many for one picture, as parts of consecutive ones.
   * @param {Box[]} boxes @param {Box} parent @returns {Box[]} */
  _split(boxes, parent) {
    if (boxes.length <= MOST_CHILDREN) return boxes;
    const most = boxes.length > MOST_IN_A_PART ** 2
      ? Math.ceil(boxes.length / MOST_IN_A_PART) : Math.ceil(boxes.length / Math.ceil(boxes.length / MOST_IN_A_PART));
    /** @type {Box[]} */ const parts = [];
    for (let start = 0; start < boxes.length; start += most) {
      const some = boxes.slice(start, start + most);
      const items = some.flatMap((box) => (box.copies.length ? box.copies.flat() : box.items));
      const part = this._box(`${parent.id}#${start + 1}-${start + some.length}`, "part", parent, items,
        some[0].scope, {
          title: `${start + 1}–${start + some.length} of ${boxes.length}`,
          label: commonWords(some.map((box) => box.title)),
        });
      for (const box of some) box.parent = part;
      part.children = this._split(some, part);
      parts.push(part);
    }
    return parts;
  }

  /** The box of a node among the children of another; null if the node is not in it, or not drawn.
   * @param {Box} container @param {number} node @returns {Box|null} */
  childWith(container, node) {
    let box = this.boxOfNode[node];
    if (!box) {
      let scope = this.graph.nodes[node].home;
      while (!this.boxOfScope[scope]) scope = this.graph.scopes[scope].home;
      box = this.boxOfScope[scope];
    }
    while (box && box.parent !== container) box = box.parent || undefined;
    return box || null;
  }

  /** Opens boxes on the way to a node or a scope, until it has one of its own.
   * @param {{node: number}|{scope: number}} target @returns {Box} the innermost one */
  boxFor(target) {
    const { graph } = this;
    const direct = "node" in target ? this.boxOfNode[target.node] : this.boxOfScope[target.scope];
    if (direct && this._is(direct, target)) return direct;
    /** @type {number[]} */ const scopes = [];
    let scope = "node" in target ? graph.nodes[target.node].home : target.scope;
    while (scope) {
      scopes.unshift(scope);
      scope = graph.scopes[scope].home;
    }
    for (const one of [0, ...scopes]) {
      const box = this.boxOfScope[one];
      if (!box) break;
      this._buildDown(box);
    }
    const found = "node" in target ? this.boxOfNode[target.node] : this.boxOfScope[target.scope];
    return found || this.boxOfScope[scopes.findLast((one) => this.boxOfScope[one]) || 0] || this.root;
  }

  /** Makes the boxes in a box, also those in its parts and patterns. @param {Box} box */
  _buildDown(box) {
    for (const child of this.childrenOf(box))
      if (["part", "layout", "copy", "ends"].includes(child.kind)
        || (child.kind === "repeat" && child.items.length > 1)) this._buildDown(child);
  }

  /** @param {Box} box @param {{node: number}|{scope: number}} target */
  _is(box, target) {
    return box.items.length === 1
      && box.items[0] === ("node" in target ? target.node : -target.scope);
  }

  /** The nodes whose edges are drawn in a box: of a repeat, those of its first copy.
   * @param {Box} box @returns {number[]} */
  nodesOf(box) {
    if (!box.nodes) {
      /** @type {number[]} */ const found = [];
      if (box === this.root) {
        this.graph.nodes.forEach((_, number) => this.graph.isHeld(number) || found.push(number));
      } else for (const item of box.items) this.graph.opsIn(item, found);
      box.nodes = found;
    }
    return box.nodes;
  }

  /** The tensor of the first copy that one of another copy is like. @param {Box} box @param {number} tensor */
  inFirstCopy(box, tensor) {
    if (box.copies.length < 2) return tensor;
    const { graph } = this;
    const producer = graph.producer[tensor];
    for (const copy of box.copies.slice(1).reverse()) {
      const ops = copy.flatMap((item) => graph.opsIn(item));
      const at = ops.indexOf(producer);
      if (at < 0) continue;
      const twin = box.items.flatMap((item) => graph.opsIn(item))[at];
      return twin === undefined ? tensor : graph.nodes[twin].first + tensor - graph.nodes[producer].first;
    }
    return tensor;
  }

  /** Shapes of what a box hands on. @param {Box} box */
  shapes(box) {
    const tensors = this.outputsOf(box);
    /** @type {string[]} */ const texts = [];
    for (const tensor of tensors) {
      const text = shapeText(this.graph.spec(tensor));
      if (texts[texts.length - 1] !== text) texts.push(text);
    }
    const more = texts.length - 2;
    return texts.slice(0, 2).join(", ") + (more > 0 ? `, ${more} more` : "");
  }

  /** The tensors that a box hands on, of its last copy. @param {Box} box @returns {number[]} */
  outputsOf(box) {
    const { graph } = this;
    if (box.kind === "ends" || box.kind === "part") return [];
    const items = box.copies.length ? box.copies[box.copies.length - 1] : box.items;
    const last = items[items.length - 1];
    if (last === undefined) return [];
    if (last < 0) return [...new Set(graph.scopes[-last].outputs.map((port) => port.tensor))];
    const { first, outs, kind } = graph.nodes[last];
    if (kind === "output") return graph.reads[last];
    return Array.from({ length: outs }, (_, number) => first + number);
  }
}

/** @param {string} cls */
export function typeName(cls) {
  return cls.slice(cls.lastIndexOf(".") + 1);
}

/** The words that are most frequent, with their numbers. @param {string[]} words */
function commonWords(words) {
  /** @type {Map<string, number>} */ const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
  const sorted = [...counts].sort((one, two) => two[1] - one[1]);
  const told = sorted.slice(0, 3).map(([word, count]) => (count > 1 ? `${count} ${word}` : word));
  return told.join(", ") + (sorted.length > 3 ? ", …" : "");
}

export { CALLED };

/** @param {string} first @param {string} last */
function rangeOf(first, last) {
  if (first === last) return first;
  const stem = first.replace(/\d+$/, "");
  const number = last.startsWith(stem) ? last.slice(stem.length) : "";
  return stem !== first && /^\d+$/.test(number) ? `${first}–${number}` : `${first} … ${last}`;
}

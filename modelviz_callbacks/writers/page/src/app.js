/** The page: what is open, where one looks, what is chosen; and the parts that show it. */

import { Camera, fitting } from "./camera.js";
import { modesOf, painter } from "./colours.js";
import { copyText, byId, h } from "./dom.js";
import { Drawing } from "./draw.js";
import { download, seen, toPng, toSvg } from "./export.js";
import { BOOKKEEPING, LAYOUT } from "./graph.js";
import { History } from "./history.js";
import { Layouts } from "./layout.js";
import { Metrics } from "./metrics.js";
import { Minimap } from "./minimap.js";
import { ModuleTree } from "./moduletree.js";
import { atLevel, readable, MOST_OPENED } from "./opening.js";
import { Panel, asTarget } from "./panel.js";
import { lengthen, placeOf, restore, shorten } from "./places.js";
import { sceneOf, shift } from "./scene.js";
import { Index, Search } from "./search.js";
import { short } from "./text.js";
import { Tip } from "./tip.js";
import { Tree, scopeOf } from "./tree.js";

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {{node: number}|{scope: number}} Target
 */

export class App {
  /** @param {import("./graph.js").Graph[]} graphs @param {number|null} depth how many levels are
   *   open at first; null: as many as stay readable */
  constructor(graphs, depth) {
    this.graphs = graphs;
    this.depth = depth;
    this.svg = /** @type {SVGSVGElement} */ (byId("picture"));
    this.at = -1;
    this.graph = graphs[0];
    this.tree = new Tree(this.graph);
    this.metrics = new Metrics(this.tree);
    this.layouts = new Layouts(this.tree, () => "");
    /** @type {import("./colours.js").Mode[]} */ this.modes = [];
    /** @type {ReturnType<typeof painter>|null} */ this.painting = null;
    /** @type {import("./scene.js").Scene|null} */ this.scene = null;
    /** @type {Box|null} what the scene is the inside of */ this.sceneOf = null;
    /** Whether the next scene has nothing to do with the last. */ this.fresh = true;
    this.hasBookkeeping = false;
    this.isLit = false;
    /** @type {Target|null} what was asked for, if it has no box of its own */ this.asked = null;
    /** @type {number|null} the difference that was shown last */ this.shownDifference = null;
    /** @type {number|undefined} */ this.saying = undefined;
    this.onload = () => {};
    this.onrefresh = () => {};
    /** @type {(isChosen: boolean) => void} */ this.onchoose = () => {};
    /** @type {(title: string, entries: {text: string, fill: string}[]) => void} */ this.onlegend = () => {};
    /** @type {Set<string>} */ this.opened = new Set();
    /** @type {Set<string>} */ this.first = new Set();
    this.focus = "";
    this.chosen = "";
    this.pinned = -1;
    this.colour = "";
    /** @type {Map<number, Index>} */ this.indices = new Map();
    this.tip = new Tip(byId("tip"));
    this.drawing = new Drawing(this.svg, (shape) => this._paint(shape), (shape) => this.describe(shape.box), (shape) => this._classes(shape));
    this.camera = new Camera(this.svg, (view, isUsers) => this._moved(view, isUsers), (event) => this._doubleClicked(event));
    this.minimap = new Minimap(byId("minimap"), (x, y) => {
      const { k } = this.camera.view;
      const { width, height } = this.room();
      this.camera.to({ x: width / 2 - x * k, y: height / 2 - y * k, k });
      this.history.note();
    });
    this.modules = new ModuleTree(byId("modules"), (target) => this.go(target));
    this.panel = this._newPanel();
    this.search = new Search(byId("search"), byId("found"), () => this.index(), (target) => this.go(target));
    this.history = new History(() => placeOf(this), (place) => restore(this, place), {
      shorten: (id) => shorten(this.graph, id), lengthen: (id) => lengthen(this.graph, id),
    });
    const place = this.history.first();
    if (place) restore(this, place);
    else this.useGraph(0);
  }

  // ---- graphs

  /** @param {number} number */
  useGraph(number) {
    this.load(number);
    this.opened = new Set(this.first);
    this.focus = "";
    this.afterLoad();
    this.refresh();
    this.fit();
  }

  /** @param {number} number */
  load(number) {
    this.at = this.graphs[number] ? number : 0;
    this.graph = this.graphs[this.at];
    this.tree = new Tree(this.graph);
    this.metrics = new Metrics(this.tree);
    this._newLayouts();
    this.modes = modesOf(this.graph, this.metrics, (box) => this.difference(box));
    if (!this.modes.some((mode) => mode.id === this.colour)) this.colour = this.graph.differences.length ? "difference" : "";
    this.hasBookkeeping = this.graph.nodes.some((node) => node.flags & BOOKKEEPING);
    if (this.hasBookkeeping) {
      this.tree.bookkeeping = false;
      this.tree.rebuild();
    }
    this.panel = this._newPanel();
    this.first = this.depth ? atLevel(this.layouts, this.tree.root, this.depth).opened
      : readable(this.layouts, this.tree.root, { ...this.room(), least: this.room().width < 620 ? 0.55 : 0.74 },
        (box) => (this.graph.differences.length && this.difference(box) !== "differs inside" ? 0 : this.metrics.of(box).ops));
    this.chosen = "";
    this.pinned = -1;
  }

  _newPanel() {
    return new Panel(byId("details"), this.tree, this.metrics, {
      go: (target) => this.go(target), pin: (tensor) => this.pin(tensor, true), toggle: (box) => this.toggle(box),
      focus: (box) => this.focusOn(box.id), unroll: (box) => this.unroll(box), isOpen: (box) => this.opened.has(box.id), isView: (box) => box === this.viewBox(),
      isUnrolled: (box) => this.copyOf(box), roll: (id) => this.roll(id), say: (text) => this.say(text),
    });
  }

  _newLayouts() {
    const { wrapAt } = this.layouts;
    this.layouts = new Layouts(this.tree, (box) => this._line(box));
    this.layouts.wrapAt = wrapAt;
    const { width, height } = this.room();
    this.layouts.aspect = Math.min(2.2, Math.max(0.45, width / height));
  }

  afterLoad() {
    document.title = this.graph.name;
    this.modules.show(this.graph);
    this.onload();
    this.details();
  }

  index() {
    let index = this.indices.get(this.at);
    if (!index) this.indices.set(this.at, (index = new Index(this.graph)));
    return index;
  }

  /** A line for a box that has no words of its own. @param {Box} box */
  _line(box) {
    if (box.kind !== "scope" && box.kind !== "repeat" && box.kind !== "part" && box.kind !== "copy") return "";
    const { params, ops } = this.metrics.of(box);
    const each = box.copies[0]?.length === 1 && !box.shared ? this.graph.scopes[scopeOf(box)].params : 0;
    if (each && each * box.times === params) return `${box.times} × ${short(each)} params`;
    if (box.kind === "part") return `${short(ops)} ops${params ? `, ${short(params)} params` : ""}`;
    return params ? `${short(params)} params` : "";
  }

  /** What a screen reader says of a box. @param {Box} box */
  describe(box) {
    const times = box.times > 1 ? `, ${box.times} times` : "";
    return [box.title + times, box.label, box.detail || this._line(box), this.tree.shapes(box)].filter(Boolean).join(", ");
  }

  /** @param {import("./scene.js").Shape} shape */
  _classes({ box, tensor }) {
    if (tensor !== null) return [];
    const found = [];
    if (this.tree.isLeaf(box) || box.kind === "layout") found.push("leaf");
    if (box.kind === "op" && this.graph.nodes[box.items[0]].flags & LAYOUT) found.push("quiet");
    if ((box.kind === "scope" || box.kind === "repeat") && !this.metrics.of(box).params) found.push("weightless");
    const difference = this.graph.differences.length ? this.difference(box) : "";
    if (difference && difference !== "differs inside") found.push(`is-${difference}`);
    return found;
  }

  /** What happened to a box, between two graphs. @param {Box} box */
  difference(box) {
    const { graph } = this;
    const found = new Set();
    const visit = (/** @type {number} */ item) => {
      const { status } = item < 0 ? graph.scopes[-item] : graph.nodes[item];
      if (status) return void found.add(item === box.items[0] || !box.copies.length ? `${status}` : status);
      if (item < 0) for (const inner of graph.items[-item] || []) visit(inner);
      return undefined;
    };
    const own = box.items.length === 1 ? (box.items[0] < 0 ? graph.scopes[-box.items[0]] : graph.nodes[box.items[0]]).status : "";
    if (own) return own;
    box.items.forEach(visit);
    return found.size ? "differs inside" : "";
  }

  // ---- drawing

  room() {
    return { width: this.svg.clientWidth || 800, height: this.svg.clientHeight || 600 };
  }

  /** @returns {Box} */
  viewBox() {
    return this.tree.byId.get(this.focus) || this.tree.root;
  }

  /** Lays out and draws what is open. @param {string} [anchor] the box that stays where it is */
  refresh(anchor = "") {
    const container = this.viewBox();
    const before = this.sceneOf === container && !this.fresh ? this.scene : null;
    const scene = sceneOf(this.layouts.of(container, this.opened, true), container);
    const [old, now] = [before?.byId.get(anchor), scene.byId.get(anchor)];
    if (old && now) shift(scene, old.x - now.x, old.y - now.y);
    else if (before) shift(scene, before.x, before.y);
    this.scene = scene;
    this.sceneOf = container;
    this.fresh = false;
    this._painter();
    this.drawing.show(scene);
    this.drawing.choose(this.chosen);
    this._light();
    this.minimap.show(scene);
    this.minimap.look(this.camera.view, this.room());
    this._path();
    this.onrefresh();
  }

  /** @param {boolean} [isGliding] */
  fit(isGliding = false) {
    if (this.scene) this.camera.to(fitting(this.scene, this.room()), isGliding);
  }

  /** @param {string} id @param {number} [least] */
  centre(id, least = 0.85) {
    const shape = this.scene?.byId.get(id);
    if (!shape) return;
    const room = this.room();
    const whole = fitting(shape, { width: room.width * 0.9, height: room.height * 0.9 }, 1.1);
    const k = Math.max(Math.min(whole.k, Math.max(this.camera.view.k, least)), Math.min(0.3, whole.k));
    const y = shape.h * k > room.height ? 40 - shape.y * k : room.height / 2 - (shape.y + shape.h / 2) * k;
    this.camera.to({ k, x: room.width / 2 - (shape.x + shape.w / 2) * k, y }, true);
  }

  /** @param {import("./camera.js").View} view @param {boolean} isUsers */
  _moved(view, isUsers) {
    this.drawing.move(view);
    this.minimap.look(view, this.room());
    if (isUsers) this.tip.hide();
    this.history?.note();
  }

  _painter() {
    const mode = this.modes.find((one) => one.id === this.colour);
    const boxes = (this.scene?.shapes || []).filter((shape) => !shape.open && shape.tensor === null).map((shape) => shape.box);
    this.painting = mode ? painter(mode, this.metrics, boxes) : null;
    this.onlegend(mode ? [mode.title, mode.seen].filter(Boolean).join(", ") : "", this.painting?.legend || []);
  }

  /** @param {import("./scene.js").Shape} shape */
  _paint(shape) {
    if (!this.painting || shape.open || shape.tensor !== null) return null;
    return this.painting.paint(shape.box);
  }

  /** @param {string} id */
  colourBy(id) {
    this.history.step(() => {
      this.colour = id;
      this._painter();
      this.drawing.repaint();
      this.drawing.choose(this.chosen);
      this.onrefresh();
    });
  }

  // ---- opening

  /** Opens or closes a box where it is. @param {Box} box */
  toggle(box) {
    if (!this.tree.canOpen(box)) return;
    this.history.step(() => {
      if (this.opened.has(box.id)) this.opened.delete(box.id);
      else this.opened.add(box.id);
      this.refresh(box.id);
      this.details();
    });
  }

  /** @param {number} level Infinity: all, 0: none */
  level(level) {
    this.history.step(() => {
      const { opened, complete } = atLevel(this.layouts, this.viewBox(), level);
      for (const id of [...this.opened]) if (this._isInView(id)) this.opened.delete(id);
      for (const id of opened) this.opened.add(id);
      this.refresh();
      this.fit(true);
      this.details();
      if (!complete) this.say(`Opened up to ${short(MOST_OPENED)} boxes; open more one by one`);
    });
  }

  /** @param {string} id */
  _isInView(id) {
    for (let box = this.tree.byId.get(id) || null; box; box = box.parent) if (box === this.viewBox()) return true;
    return false;
  }

  /** Looks into a box, or at the whole ("" ). @param {string} id */
  focusOn(id) {
    if (id === this.focus) return;
    this.history.step(() => {
      this.focus = id;
      this.refresh();
      this.fit();
      this.details();
    });
  }

  /** @param {Box} box */
  unroll(box) {
    this.history.step(() => {
      this.tree.unrolled.add(`${this.tree._nameOf(box.items[0])}/*`);
      this._rebuilt(box.id);
    });
  }

  /** @param {string} id */
  roll(id) {
    this.history.step(() => {
      this.tree.unrolled.delete(id);
      this._rebuilt(id.slice(0, -2));
    });
  }

  /** The id of the repeats that a box is an unrolled copy of; "" if it is none. @param {Box} box */
  copyOf(box) {
    if (!this.tree.unrolled.size || box.items.length === 0 || box === this.tree.root) return "";
    const { graph } = this;
    const place = box.items[0] < 0 ? graph.placeOfScope[-box.items[0]] : graph.placeOfNode[box.items[0]];
    for (const { start, period, times } of graph.folds(box.scope)) {
      if (place < start || place >= start + period * times) continue;
      const id = `${this.tree._nameOf(graph.items[box.scope][start])}/*`;
      return this.tree.unrolled.has(id) ? id : "";
    }
    return "";
  }

  /** @param {string} anchor */
  _rebuilt(anchor) {
    this.rebuild();
    this.warm(this.opened, this.focus);
    if (!this.tree.byId.get(this.focus)) this.focus = "";
    this.sceneOf = this.viewBox();
    this.refresh(anchor);
    if (!this.tree.byId.get(this.chosen)) this.chosen = "";
    this.details();
  }

  /** Makes boxes anew after it has changed which there are. */
  rebuild() {
    this.tree.rebuild();
    this.metrics = new Metrics(this.tree);
    this.panel.metrics = this.metrics;
    this.modes = modesOf(this.graph, this.metrics, (box) => this.difference(box));
    this._newLayouts();
  }

  /** Makes the boxes that are open again, so that they are known by their ids.
   * @param {Set<string>} open @param {string} focus */
  warm(open, focus) {
    const visit = (/** @type {Box} */ box) => {
      for (const child of this.tree.childrenOf(box))
        if (open.has(child.id) || child.kind === "part" || isAround(child.id, focus)) visit(child);
    };
    visit(this.tree.root);
  }

  /** @param {boolean} shown */
  showBookkeeping(shown) {
    this.history.step(() => {
      this.tree.bookkeeping = shown;
      this._rebuilt("");
    });
  }

  // ---- choosing

  /** @param {string} id */
  choose(id) {
    this.chosen = id;
    this.pinned = -1;
    this.drawing.choose(id);
    this._light();
    this.details();
    this.history.note();
    this.onchoose(id !== "");
  }

  /** Pins a tensor. @param {number} tensor @param {boolean} [isShown] whether to go where it is made */
  pin(tensor, isShown = false) {
    if (isShown) {
      const shape = this.scene?.wires.find((wire) => wire.tensors.includes(tensor));
      if (!shape) this.go({ node: this.graph.producer[tensor] });
    }
    this.chosen = "";
    this.pinned = tensor;
    this.drawing.choose("");
    this._light();
    this.details();
    this.history.note();
    this.onchoose(true);
  }

  details() {
    const box = this.chosen ? this.tree.byId.get(this.chosen) : null;
    const shape = this.scene?.byId.get(this.chosen);
    if (this.pinned >= 0) this.panel.showTensor(this.pinned);
    else if (shape && shape.tensor !== null) this.panel.showTensor(shape.tensor);
    else if (box && box !== this.tree.root) this.panel.showBox(box);
    else if (this.focus && this.viewBox() !== this.tree.root) this.panel.showBox(this.viewBox());
    else this.panel.showModel();
    const target = box && box.items.length ? asTarget(box.items[0]) : this.pinned >= 0 ? { node: this.graph.producer[this.pinned] } : null;
    this.modules.follow(this.asked || target);
    this.asked = null;
  }

  /** Lights the pinned tensor, or what the chosen box reads and makes. */
  _light() {
    if (this.pinned >= 0) return this.drawing.light([this.pinned], this._endsOf([this.pinned]));
    const around = this.chosen ? this._around(this.chosen) : [];
    return this.drawing.light(around, []);
  }

  /** Ids of the boxes that tensors come from and go to, as far as they are drawn. @param {number[]} tensors */
  _endsOf(tensors) {
    const ids = new Set();
    for (const wire of this.scene?.wires || [])
      if (wire.tensors.some((tensor) => tensors.includes(tensor)))
        for (const id of [wire.from, wire.to]) {
          const shape = this.scene?.byId.get(id) || this.scene?.byId.get(`${wire.container}|${id}`);
          if (shape && !shape.open) ids.add(shape.id);
        }
    return ids;
  }

  /** The tensors on the edges of a box. @param {string} id */
  _around(id) {
    const found = [];
    for (const wire of this.scene?.wires || [])
      if (wire.from === id || wire.to === id || `${wire.container}|${wire.from}` === id || `${wire.container}|${wire.to}` === id) found.push(...wire.tensors);
    return found;
  }

  /** Opens all around something, goes there and chooses it. @param {Target} target */
  go(target) {
    this.history.step(() => {
      const box = this.reveal(target);
      this.asked = target;
      this.chosen = box.id;
      this.pinned = -1;
      this.refresh();
      this.centre(box.id);
      this.details();
      this.onchoose(true);
    });
  }

  /** @param {Target} target @returns {Box} its box, with all around it open */
  reveal(target) {
    const { tree, graph } = this;
    /** @type {Set<number>} */ const chain = new Set();
    let scope = "scope" in target ? target.scope : graph.nodes[target.node].home;
    if ("node" in target) chain.add(target.node);
    for (; scope; scope = graph.scopes[scope].home) chain.add(-scope);
    let box = tree.boxFor(target);
    for (let tries = 0; tries < 40; tries++) {
      /** @type {Box|null} */ let repeat = null;
      for (let one = /** @type {Box|null} */ (box); one; one = one.parent)
        if (one.kind === "repeat" && one.copies.slice(1).some((copy) => copy.some((item) => chain.has(item)))) repeat = one;
      if (!repeat) break;
      tree.unrolled.add(`${tree._nameOf(repeat.items[0])}/*`);
      tree.rebuild();
      this.fresh = true;
      box = tree.boxFor(target);
    }
    if (this.fresh) {
      this.rebuild();
      this.warm(this.opened, this.focus);
      box = tree.boxFor(target);
    }
    if ("node" in target && graph.isHeld(target.node)) box = this._heldBox(target.node) || box;
    if (!this._isAround(this.viewBox(), box)) this.focus = "";
    for (let one = box.parent; one && one !== this.viewBox(); one = one.parent) this.opened.add(one.id);
    return box;
  }

  /** The box of a parameter, beside its first reader. @param {number} node @returns {Box|null} */
  _heldBox(node) {
    const reader = this.graph.readers[this.graph.nodes[node].first]?.[0];
    if (reader === undefined) return null;
    const box = this.tree.boxFor({ node: reader });
    const container = box.parent;
    if (!container) return null;
    this.layouts.wiring(container);
    return this.tree.byId.get(`${container.id}|${this.graph.nodeName(node)}`) || box;
  }

  /** @param {Box} outer @param {Box} inner */
  _isAround(outer, inner) {
    for (let one = /** @type {Box|null} */ (inner.parent); one; one = one.parent) if (one === outer) return true;
    return false;
  }

  /** @param {MouseEvent} event @returns {boolean} */
  _doubleClicked(event) {
    const target = /** @type {Element} */ (event.target);
    if (target.closest(".sign")) return true; // its clicks have been used
    const element = /** @type {SVGElement|null} */ (target.closest(".box"));
    const box = element && this.tree.byId.get(element.dataset.name || "");
    if (!box || !this.tree.canOpen(box)) return !!box;
    this.toggle(box);
    return true;
  }

  /** @param {number} by 1: the next one, -1: the one before */
  stepDifference(by) {
    const all = this.graph.differences;
    if (!all.length) return;
    const at = this.shownDifference ?? (by > 0 ? -1 : 0);
    this.shownDifference = (at + by + all.length) % all.length;
    const { text, kind, target } = all[this.shownDifference];
    const found = this.graph.find(target);
    if (found) this.go(found);
    this.say(`${this.shownDifference + 1} of ${all.length}: ${kind}, ${text}`);
  }

  // ---- the path, places, export

  _path() {
    /** @type {Box[]} */ const around = [];
    for (let one = /** @type {Box|null} */ (this.viewBox()); one; one = one.parent) around.unshift(one);
    byId("path").replaceChildren(...around.map((box, number) => h("button", {
      onclick: () => this.focusOn(box.id), "aria-current": number === around.length - 1 ? "page" : null,
    }, number ? box.label || box.title : this.graph.name)));
  }

  /** @param {"svg"|"png"} kind */
  async export(kind) {
    const { width, height } = this.room();
    const ground = getComputedStyle(document.body).backgroundColor;
    const shapes = seen(this.svg);
    const name = `${this.graph.name.replace(/[^\w.-]+/g, "_").slice(0, 60) || "graph"}.${kind}`;
    const blob = kind === "svg" ? new Blob([toSvg(shapes, width, height, ground, this.graph.name)], { type: "image/svg+xml" })
      : await toPng(shapes, width, height, ground);
    if (blob) download(blob, name);
    this.say(blob ? `Saved what is seen as ${name}` : "This browser cannot make the picture");
  }

  async copyLink() {
    this.say((await copyText(location.href)) ? "Link copied" : location.href);
  }

  /** @param {string} text */
  say(text) {
    const place = byId("status");
    place.textContent = text;
    place.classList.add("shown");
    clearTimeout(this.saying);
    this.saying = setTimeout(() => place.classList.remove("shown"), 2600);
  }
}

/** @param {string} outer @param {string} inner */
function isAround(outer, inner) {
  return inner === outer || inner.startsWith(`${outer}/`) || inner.startsWith(`${outer}#`);
}

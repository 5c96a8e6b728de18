/** What is known of a box or of a tensor, with links to what is around it. */

import { IN_PLACE, READS_VALUE, TRAINING, shapeText } from "./graph.js";
import { gradientNorm, updateRatio, zeroShare } from "./colours.js";
import { memoryCurve } from "./curve.js";
import { copyText, h } from "./dom.js";
import { bytesText, counted, percent, short, small, timeText, whole } from "./text.js";
import { scopeOf, typeName } from "./tree.js";

const MOST_ROWS = 40;
/** Lines of source around an op's, around those of a module's own ops, and how many at most. */
const AROUND_OP = 3, AROUND_STEP = 1, MOST_LINES = 60;

/**
 * @typedef {import("./tree.js").Box} Box
 * @typedef {{node: number}|{scope: number}} Target
 * @typedef {object} Actions
 * @property {(target: Target) => void} go
 * @property {(tensor: number) => void} pin
 * @property {(box: Box) => void} toggle
 * @property {(box: Box) => void} focus
 * @property {(box: Box) => void} unroll
 * @property {(box: Box) => boolean} isView whether it is what is looked into
 * @property {(box: Box) => boolean} isOpen
 * @property {(box: Box) => string} isUnrolled the id of the repeats that a box is a copy of, or ""
 * @property {(id: string) => void} roll
 * @property {(text: string) => void} say
 */

export class Panel {
  /** @param {HTMLElement} home @param {import("./tree.js").Tree} tree
   * @param {import("./metrics.js").Metrics} metrics @param {Actions} actions */
  constructor(home, tree, metrics, actions) {
    this.home = home;
    this.tree = tree;
    this.graph = tree.graph;
    this.metrics = metrics;
    this.actions = actions;
  }

  /** @param {...(Node|null|false)} parts */
  _show(...parts) {
    this.home.replaceChildren(...parts.filter((part) => part !== null && part !== false).map((part) => /** @type {Node} */ (part)));
    this.home.scrollTop = 0;
  }

  showModel() {
    const { graph } = this;
    const sums = this.metrics.of(this.tree.root);
    this._show(h("h2", {}, graph.name), table([["class", graph.cls], ...this._sumRows(sums)]),
      this._curve([]), this._differences(),
      graph.notes.length ? section("Notes", h("ul", { class: "notes" },
        ...alikeNotes(graph.notes).slice(0, 40).map(({ subject, message, more }) => h("li", {}, this._subject(subject, message),
          more ? h("small", {}, `and ${more} alike`) : null)))) : null,
      h("p", { class: "hint" }, "Click a box or an arrow. Double click opens a box in place."));
  }

  _differences() {
    const { differences } = this.graph;
    if (!differences.length) return null;
    return section(counted(differences.length, "difference"), h("ol", { class: "differences" },
      ...differences.map(({ kind, text, target }) => {
        const found = this.graph.find(target);
        return h("li", { class: `is-${kind}` }, h("span", { class: "mark" }, kind), " ",
          found ? h("button", { class: "link", onclick: () => this.actions.go(found) }, text) : text);
      })));
  }

  /** @param {string} subject @param {string} message */
  _subject(subject, message) {
    const target = subject ? this.graph.find(subject) || this._moduleAt(subject) : null;
    if (!target) return message;
    return h("button", { class: "link", onclick: () => this.actions.go(target) }, message);
  }

  /** @param {string} path @returns {Target|null} */
  _moduleAt(path) {
    const scope = this.graph.scopes.findIndex((one, number) => number > 0 && one.path === path);
    return scope > 0 ? { scope } : null;
  }

  /** @param {Box} box */
  showBox(box) {
    const scope = scopeOf(box);
    if (scope) return this._showModule(box, scope);
    if (box.kind === "part" || box.kind === "layout" || box.kind === "copy" || box.kind === "ends" || box.items.length > 1)
      return this._showGroup(box);
    return this._showNode(box, box.items[0]);
  }

  /** @param {Box} box */
  _head(box) {
    const times = box.times > 1 ? ` ×${box.times}` : "";
    return h("h2", {}, box.title + times);
  }

  /** @param {Box} box */
  _buttons(box) {
    const { tree, actions } = this;
    /** @type {HTMLElement[]} */ const found = [];
    const add = (/** @type {string} */ text, /** @type {string} */ key, /** @type {() => void} */ run, /** @type {string} */ id) =>
      found.push(h("button", { class: "act", id, title: `${text} (${key})`, onclick: run }, text));
    if (tree.canOpen(box) && !actions.isView(box)) {
      add(actions.isOpen(box) ? "Collapse" : "Expand", "Enter", () => actions.toggle(box), "toggle");
      add("Focus", "f", () => actions.focus(box), "focus");
    }
    if (box.kind === "repeat") add(`Unroll ×${box.times}`, "u", () => actions.unroll(box), "unroll");
    const rolled = actions.isUnrolled(box);
    if (rolled) add("Roll up", "u", () => actions.roll(rolled), "roll");
    return found.length ? h("div", { class: "acts" }, ...found) : null;
  }

  /** @param {string} text @param {string} [kind] */
  _copy(text, kind = "name") {
    return h("span", { class: kind }, text, h("button", { class: "copy", title: `Copy ${text}`, "aria-label": `Copy ${text}`,
      onclick: async () => this.actions.say((await copyText(text)) ? "Copied" : "This frame does not allow copying") }));
  }

  /** @param {Box} box @param {number} number */
  _showModule(box, number) {
    const { graph } = this;
    const scope = graph.scopes[number];
    const rows = /** @type {[string, any][]} */ ([]);
    rows.push(["path", scope.path === null ? "not part of the model" : this._copy(scope.path || graph.name)]);
    rows.push(["class", this._copy(scope.cls, "plain")]);
    if (scope.again) rows.push(["call", `number ${scope.again + 1} of this module`]);
    if (box.merged.length) rows.push(["inside", this._links(box.merged.map((one) => ({ scope: one })))]);
    if (box.varies) rows.push(["differs in", box.varies]);
    if (scope.tied) rows.push(["tied to", scope.tied]);
    if (scope.was) rows.push(["difference", scope.was]);
    rows.push(["mode", scope.flags & TRAINING ? "training" : "evaluation"]);
    const ops = graph.opsIn(-number);
    if (ops.length === 1) rows.push(...this._nodeRows(ops[0]));
    const own = ops.length === 1 ? ops : graph.ownSteps(number);
    this._show(this._head(box), this._buttons(box), table(rows),
      this._ports("Inputs", scope.inputs, true), this._ports("Outputs", scope.outputs, false),
      this._code(own, ops.length === 1 ? AROUND_OP : AROUND_STEP),
      this._parameters(scope.path), section(box.times > 1 ? `Holds (all ${box.times})` : "Holds", table(this._sumRows(this.metrics.of(box)))),
      this._curve(ops), this._copies(box));
  }

  /** @param {number[]} ops */
  _curve(ops) {
    const curve = memoryCurve(this.graph, ops, this.actions.go);
    return curve && section("Memory along the forward", curve);
  }

  /** @param {Box} box */
  _copies(box) {
    if (box.copies.length < 2) return null;
    const targets = box.copies.map((copy) => asTarget(copy[0]));
    return section("Repeats", this._links(targets, 60));
  }

  /** @param {Box} box */
  _showGroup(box) {
    const { tree } = this;
    const children = tree.childrenOf(box);
    const what = { part: "a part of a long scope", layout: "only changes how a tensor is laid out", repeat: "repeated steps",
      copy: "one of the repeats", ends: "of the model" }[/** @type {string} */ (box.kind)];
    const list = h("ul", { class: "list" }, ...children.slice(0, MOST_ROWS).map((child) => h("li", {},
      child.items.length === 1 ? this._link(asTarget(child.items[0]), `${child.title}${child.times > 1 ? ` ×${child.times}` : ""} ${child.label}`) : `${child.title} ${child.label}`)));
    this._show(this._head(box), this._buttons(box), table([["what", what || box.kind], ["name", box.label],
      ...(box.varies ? [/** @type {[string, any]} */ (["differs in", box.varies])] : [])]),
      section("Holds", table(this._sumRows(this.metrics.of(box)))), section("In it", list), this._copies(box));
  }

  /** @param {Box} box @param {number} number */
  _showNode(box, number) {
    const { graph } = this;
    const node = graph.nodes[number];
    const isCall = graph.isCall(number);
    const rows = /** @type {[string, any][]} */ ([["kind", node.kind === "op" ? "op" : node.kind]]);
    if (node.path) rows.push([isCall ? "gradient of" : "name", this._copy(node.path)]);
    if (node.aliases.length) rows.push(["also called", node.aliases.join(", ")]);
    rows.push(["node", this._copy(graph.nodeName(number))]);
    if (node.was) rows.push(["difference", node.was]);
    rows.push(...this._nodeRows(number, isCall));
    const made = Array.from({ length: node.outs }, (_, at) => ({ path: node.outs > 1 ? `[${at}]` : "", tensor: node.first + at }));
    const read = node.kind === "output" ? graph.reads[number].map((tensor) => ({ path: "", tensor })) : [];
    this._show(this._head(box), this._buttons(box), table(rows),
      isCall ? this._code([number], AROUND_OP) : null,
      made.length ? this._ports(isCall ? "Makes" : "Tensor", made, false) : null,
      read.length ? this._ports("Tensor", read, true) : null,
      isCall ? section("Costs", table(this._sumRows(this.metrics.of(box)))) : null,
      isCall ? this._curve([number]) : null);
  }

  /** Arguments, source and what is special about an op. @param {number} number @param {boolean} [isCall]
   * @returns {[string, any][]} */
  _nodeRows(number, isCall = true) {
    const { graph } = this;
    const node = graph.nodes[number];
    const rows = /** @type {[string, any][]} */ ([]);
    if (isCall && node.target) rows.push(["calls", this._copy(node.target, "plain")]);
    for (const { name, segments } of isCall ? node.args : []) rows.push([name, this._value(segments)]);
    if (node.flags & IN_PLACE) rows.push(["in place", "it overwrites what it was given"]);
    if (node.flags & READS_VALUE) rows.push(["control flow", "Python looks at the value here"]);
    if (node.kind === "opaque") rows.push(["opaque", "what happens inside could not be seen"]);
    if (node.file) rows.push(["source", h("span", {}, this._copy(`${node.file}:${node.line}`), `, in ${node.func}`)]);
    return rows;
  }

  /** The lines of source that some ops come from. @param {number[]} nodes @param {number} around */
  _code(nodes, around) {
    const lines = this.graph.codeOf(nodes, around);
    if (!lines.length) return null;
    const indents = lines.filter(({ text }) => text).map(({ text }) => text.length - text.trimStart().length);
    const least = Math.min(...indents);
    const rows = lines.slice(0, MOST_LINES).flatMap(({ number, text, isMeant }, at) => [
      at && number > lines[at - 1].number + 1 ? h("div", { class: "gap" }, "⋯") : null,
      h("div", { class: isMeant ? "meant" : "" }, h("span", { class: "number" }, String(number)), h("code", {}, text.slice(least)))]);
    return section("Code", h("div", { class: "code", tabindex: 0, role: "region", "aria-label": "Lines of source" }, ...rows));
  }

  /** @param {(string|number)[]} segments */
  _value(segments) {
    return h("span", { class: "value" }, ...segments.map((one) => (typeof one === "number" ? this._tensorLink(one) : one)));
  }

  /** @param {number} tensor */
  _tensorLink(tensor) {
    return h("button", { class: "link", onclick: () => this.actions.pin(tensor) },
      `${this.graph.tensorName(tensor)} `, h("span", { class: "shape" }, shapeText(this.graph.spec(tensor))));
  }

  /** @param {Target} target @param {string} text */
  _link(target, text) {
    return h("button", { class: "link", onclick: () => this.actions.go(target) }, text);
  }

  /** @param {Target[]} targets @param {number} [most] */
  _links(targets, most = MOST_ROWS) {
    const { graph } = this;
    const name = (/** @type {Target} */ target) =>
      "scope" in target ? graph.scopes[target.scope].path || graph.scopes[target.scope].name : graph.nodeName(target.node);
    const rows = targets.slice(0, most).map((target) => h("li", {}, this._link(target, name(target))));
    if (targets.length > most) rows.push(h("li", {}, `${whole(targets.length - most)} more`));
    return h("ul", { class: "list" }, ...rows);
  }

  /** @param {string} title @param {import("./graph.js").Port[]} ports @param {boolean} isInput */
  _ports(title, ports, isInput) {
    if (!ports.length) return null;
    const { graph } = this;
    const rows = ports.slice(0, MOST_ROWS).map(({ path, tensor }) => {
      const spec = graph.spec(tensor);
      const readers = graph.readers[tensor];
      return h("li", {}, h("button", { class: "link", onclick: () => this.actions.pin(tensor) }, path || graph.tensorName(tensor)),
        " ", h("span", { class: "shape" }, shapeText(spec)), ` ${spec.dtype}`,
        h("small", {}, isInput ? `from ${graph.nodeName(graph.producer[tensor]) || "outside"}` : readers.length ? `used by ${counted(readers.length, "op")}` : "not used"));
    });
    if (ports.length > MOST_ROWS) rows.push(h("li", {}, `${whole(ports.length - MOST_ROWS)} more`));
    return section(title, h("ul", { class: "list" }, ...rows));
  }

  /** @param {string|null} path */
  _parameters(path) {
    if (path === null) return null;
    const under = this.graph.parameters.filter(({ module }) => module === path || !path || module.startsWith(`${path}.`));
    if (!under.length) return null;
    const isMixed = new Set(under.map(({ spec }) => spec.dtype)).size > 1;
    const rows = under.slice(0, MOST_ROWS).map(({ name, spec, trainable }) => h("tr", {},
      h("td", {}, path ? name.slice(path.length + 1) : name), h("td", { class: "shape" }, shapeText(spec)),
      isMixed ? h("td", {}, spec.dtype) : null, h("td", { class: "number" }, whole((spec.shape || []).reduce((one, two) => one * two, 1))),
      h("td", {}, trainable ? "" : "frozen")));
    if (under.length > MOST_ROWS) rows.push(h("tr", {}, h("td", { colspan: 5 }, `${whole(under.length - MOST_ROWS)} more`)));
    return section(isMixed ? "Parameters" : `Parameters, ${under[0].spec.dtype}`, h("div", { class: "scroll" }, h("table", { class: "parameters" }, ...rows)));
  }

  /** @param {import("./metrics.js").Sums} sums @returns {[string, any][]} */
  _sumRows(sums) {
    const rows = /** @type {[string, any][]} */ ([]);
    if (sums.params) {
      const frozen = sums.params - sums.trainable;
      rows.push(["parameters", `${whole(sums.params)}${frozen ? `, ${sums.trainable ? whole(frozen) : "all"} frozen` : ""}`]);
      rows.push(["their bytes", bytesText(sums.weightBytes)]);
      if (sums.gradientBytes) rows.push(["their gradients", bytesText(sums.gradientBytes)]);
      if (sums.optimizer) rows.push(["optimizer state", bytesText(sums.optimizer)]);
    }
    if (sums.flops !== null) rows.push(["FLOPs", `${sums.atLeast ? "at least " : ""}${short(sums.flops)}`]);
    else if (sums.atLeast) rows.push(["FLOPs", "not known"]);
    if (sums.made) rows.push(["tensors made", bytesText(sums.made)]);
    if (sums.kept) rows.push(["kept for the backward", bytesText(sums.kept)]);
    if (sums.peak) rows.push(["alive at the most", bytesText(sums.peak)]);
    if (sums.time) rows.push(["time", timeText(sums.time)]);
    if (sums.backward) rows.push(["backward time", timeText(sums.backward)]);
    if (sums.limit) rows.push(["limit", sums.limit]);
    if (sums.gradient) rows.push(["gradient norm", small(gradientNorm(sums))]);
    if (sums.elements) rows.push(["zeros in its output", percent(zeroShare(sums))]);
    if (sums.update) rows.push(["update ratio", small(updateRatio(sums))]);
    if (sums.ops > 1) rows.push(["ops", whole(sums.ops)]);
    return rows;
  }

  /** @param {number} tensor */
  showTensor(tensor) {
    const { graph } = this;
    const spec = graph.spec(tensor);
    const producer = graph.producer[tensor];
    const readers = graph.readers[tensor];
    const rows = /** @type {[string, any][]} */ ([
      ["shape", h("span", { class: "shape" }, shapeText(spec))], ["dtype", spec.dtype], ["device", spec.device],
      ["bytes", `${bytesText(spec.bytes)}`], ["gradient", spec.grad ? "flows to it" : "none"],
    ]);
    if (spec.layout !== "strided") rows.push(["layout", spec.layout]);
    this._show(h("h2", {}, "Tensor"), table([["name", this._copy(graph.tensorName(tensor))], ...rows]),
      section("Made by", this._links([{ node: producer }])),
      section(readers.length ? `Used by ${counted(readers.length, "op")}` : "Used by nothing",
        this._links(readers.map((node) => ({ node })))));
  }
}

/** Notes that differ in numbers only are one. @param {[string, string, string][]} notes */
function alikeNotes(notes) {
  /** @type {Map<string, {subject: string, message: string, more: number}>} */ const found = new Map();
  for (const [kind, subject, message] of notes) {
    const key = `${kind} ${message.replace(/\d+/g, "#")}`;
    const known = found.get(key);
    if (known) known.more++;
    else found.set(key, { subject, message, more: 0 });
  }
  return [...found.values()];
}

/** @param {number} item @returns {Target} */
export function asTarget(item) {
  return item < 0 ? { scope: -item } : { node: item };
}

/** @param {[string, any][]} rows */
function table(rows) {
  return h("table", { class: "facts" }, ...rows.filter(([, value]) => value !== "" && value !== null)
    .map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))));
}

/** @param {string} title @param {Node} content */
function section(title, content) {
  return h("section", {}, h("h3", {}, title), content);
}

export { typeName };

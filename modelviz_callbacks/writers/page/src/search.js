/** Search over names, classes, ops, shapes and source lines. */

import { shapeText } from "./graph.js";
import { h } from "./dom.js";
import { typeName } from "./tree.js";
import { whole } from "./text.js";

const MOST_LISTED = 60;

/** @typedef {{node: number}|{scope: number}} Target */

export class Index {
  /** @param {import("./graph.js").Graph} graph */
  constructor(graph) {
    this.graph = graph;
    /** @type {{text: string, target: Target, size: number}[]|null} */ this._entries = null;
  }

  entries() {
    if (this._entries) return this._entries;
    const { graph } = this;
    /** @type {{text: string, target: Target, size: number}[]} */ const found = [];
    graph.scopes.forEach(({ name, path, cls, outputs, flags }, scope) => {
      if (!scope || !(flags & 1)) return;
      const shapes = outputs.map(({ tensor }) => shapeText(graph.spec(tensor)));
      found.push(entry([name, path || "", cls, ...shapes], { scope }));
    });
    graph.nodes.forEach((node, number) => {
      const shapes = [];
      for (let tensor = node.first; tensor < node.first + node.outs; tensor++) shapes.push(shapeText(graph.spec(tensor)));
      const source = node.file ? `${node.file}:${node.line} ${node.func}` : "";
      found.push(entry([graph.nodeName(number), node.path, node.op, node.target, source, ...shapes], { node: number }));
    });
    this._entries = found;
    return found;
  }

  /** @param {string} query @returns {Target[]} the best ones first */
  find(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const found = [];
    for (const entry of this.entries()) {
      if (!words.every((word) => entry.text.includes(word))) continue;
      const own = entry.text.slice(0, entry.size);
      const last = own.slice(own.lastIndexOf("/") + 1);
      const rank = (last === words.at(-1) ? 0 : words.some((word) => last.includes(word)) ? 1 : 2) + ("scope" in entry.target ? 0 : 0.5);
      found.push({ target: entry.target, rank, length: entry.size });
    }
    found.sort((one, two) => one.rank - two.rank || one.length - two.length);
    return found.map(({ target }) => target);
  }
}

/** @param {string[]} texts @param {Target} target */
function entry(texts, target) {
  return { text: texts.join("\n").toLowerCase(), target, size: texts[0].length };
}

/** The field and the list of results below it. */
export class Search {
  /** @param {HTMLInputElement} field @param {HTMLElement} list @param {() => Index} index
   * @param {(target: Target) => void} go */
  constructor(field, list, index, go) {
    this.field = field;
    this.list = list;
    this.index = index;
    this.go = go;
    this.at = -1;
    field.addEventListener("input", () => this.update());
    field.addEventListener("focus", () => field.value && this.update());
    field.addEventListener("keydown", (event) => this._key(event));
    document.addEventListener("pointerdown", (event) => {
      const target = /** @type {Node} */ (event.target);
      if (!list.contains(target) && target !== field) this.close();
    });
  }

  close() {
    this.list.hidden = true;
    this.field.setAttribute("aria-expanded", "false");
  }

  update() {
    const found = this.index().find(this.field.value);
    this.at = -1;
    this.found = found;
    this.list.hidden = !this.field.value.trim();
    this.field.setAttribute("aria-expanded", String(!this.list.hidden));
    const { graph } = this.index();
    const rows = found.slice(0, MOST_LISTED).map((target, number) => {
      const [title, where, more] = told(graph, target);
      return h("li", { role: "option", id: `hit${number}`, onclick: () => this._go(number) },
        h("b", {}, title), " ", h("span", { class: "shape" }, more), h("small", {}, where));
    });
    if (!found.length) rows.push(h("li", { class: "none" }, "Nothing found"));
    else if (found.length > MOST_LISTED)
      rows.push(h("li", { class: "none" }, `${whole(found.length - MOST_LISTED)} more: type on to narrow it`));
    this.list.replaceChildren(...rows);
  }

  /** @param {number} number */
  _go(number) {
    const target = this.found?.[number];
    if (!target) return;
    this.close();
    this.field.blur();
    this.go(target);
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    if (event.key === "Escape") {
      this.close();
      this.field.blur();
    } else if (event.key === "Enter") this._go(Math.max(0, this.at));
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const rows = [...this.list.querySelectorAll("[role=option]")];
      this.at = Math.max(0, Math.min(rows.length - 1, this.at + (event.key === "ArrowDown" ? 1 : -1)));
      rows.forEach((row, number) => row.setAttribute("aria-selected", String(number === this.at)));
      rows[this.at]?.scrollIntoView({ block: "nearest" });
      this.field.setAttribute("aria-activedescendant", `hit${this.at}`);
    }
  }
}

/** Title, where it is, and shape of a result. @param {import("./graph.js").Graph} graph
 * @param {Target} target @returns {[string, string, string]} */
function told(graph, target) {
  if ("scope" in target) {
    const { cls, name, path, outputs } = graph.scopes[target.scope];
    return [typeName(cls), path || name, outputs.map(({ tensor }) => shapeText(graph.spec(tensor))).slice(0, 2).join(", ")];
  }
  const node = graph.nodes[target.node];
  const where = node.path && !graph.isCall(target.node) ? node.path : graph.nodeName(target.node);
  const shape = node.outs ? shapeText(graph.spec(node.first)) : "";
  return [node.op, node.file ? `${where}  (${node.file}:${node.line})` : where, shape];
}

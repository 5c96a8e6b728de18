/** The modules and ops as a tree of text, beside the picture; a screen reader can walk it. */

import { h } from "./dom.js";
import { typeName } from "./tree.js";
import { short } from "./text.js";

const MOST_ROWS = 150;

/** @typedef {{node: number}|{scope: number}} Target */

export class ModuleTree {
  /** @param {HTMLElement} home @param {(target: Target) => void} go */
  constructor(home, go) {
    this.home = home;
    this.go = go;
    home.addEventListener("keydown", (event) => this._key(event));
  }

  /** @param {import("./graph.js").Graph} graph */
  show(graph) {
    this.graph = graph;
    /** @type {Map<number, HTMLElement>} rows by item */ this.rows = new Map();
    this.home.replaceChildren();
    this.home.append(this._group(0, 1));
    const first = this.home.querySelector("[role=treeitem]");
    first?.setAttribute("tabindex", "0");
  }

  /** @param {number} scope @param {number} level @param {number} [start] */
  _group(scope, level, start = 0) {
    const items = this.graph?.items[scope] || [];
    const group = h("ul", { role: level === 1 ? "presentation" : "group" });
    this._fill(group, scope, level, start, items);
    return group;
  }

  /** @param {HTMLElement} group @param {number} scope @param {number} level @param {number} start
   * @param {number[]} items */
  _fill(group, scope, level, start, items) {
    for (const item of items.slice(start, start + MOST_ROWS)) group.append(this._row(item, level));
    const left = items.length - start - MOST_ROWS;
    if (left > 0) {
      const more = h("li", { role: "none" }, h("button", { class: "link", onclick: () => {
        more.remove();
        this._fill(group, scope, level, start + MOST_ROWS, items);
      } }, `${left.toLocaleString("en")} more`));
      group.append(more);
    }
  }

  /** @param {number} item @param {number} level */
  _row(item, level) {
    const graph = /** @type {import("./graph.js").Graph} */ (this.graph);
    const scope = item < 0 ? graph.scopes[-item] : null;
    const title = scope ? typeName(scope.cls) : graph.nodes[item].op;
    const has = scope && (graph.items[-item] || []).length > 0;
    const row = h("li", { role: "treeitem", tabindex: -1, "aria-level": level, "aria-expanded": has ? "false" : null });
    const line = h("div", { class: `row ${scope ? "module" : "op"}`, onclick: () => this._choose(item, row) },
      h("span", { class: "twig", "aria-hidden": "true", onclick: (/** @type {Event} */ event) => {
        event.stopPropagation();
        this.toggle(row);
      } }), scope ? h("span", {}, scope.short) : h("span", { class: "opname" }, title),
      scope ? h("span", { class: "cls" }, title) : null,
      scope?.params ? h("span", { class: "count" }, short(scope.params)) : null);
    row.append(line);
    row.dataset.item = String(item);
    this.rows?.set(item, row);
    return row;
  }

  /** @param {HTMLElement} row @param {boolean} [open] */
  toggle(row, open = row.getAttribute("aria-expanded") !== "true") {
    if (!row.hasAttribute("aria-expanded")) return;
    row.setAttribute("aria-expanded", String(open));
    if (open && !row.querySelector("ul"))
      row.append(this._group(-Number(row.dataset.item), Number(row.getAttribute("aria-level")) + 1));
  }

  /** @param {number} item @param {HTMLElement} row */
  _choose(item, row) {
    this._focus(row);
    this.go(item < 0 ? { scope: -item } : { node: item });
  }

  /** Shows where something is. @param {Target|null} target */
  follow(target) {
    const { graph, rows } = this;
    if (!graph || !rows) return;
    for (const row of this.home.querySelectorAll("[aria-selected=true]")) row.setAttribute("aria-selected", "false");
    if (!target) return;
    const item = "scope" in target ? -target.scope : target.node;
    /** @type {number[]} */ const around = [];
    let scope = "scope" in target ? graph.scopes[target.scope].home : graph.nodes[target.node].home;
    while (scope) {
      around.unshift(scope);
      scope = graph.scopes[scope].home;
    }
    for (const one of around) {
      const row = rows.get(-one);
      if (row) this.toggle(row, true);
    }
    const row = rows.get(item) || rows.get(-(around.at(-1) || 0));
    if (!row) return;
    row.setAttribute("aria-selected", "true");
    this._focus(row, false);
    row.firstElementChild?.scrollIntoView({ block: "nearest" });
  }

  /** @param {HTMLElement} row @param {boolean} [really] */
  _focus(row, really = true) {
    for (const one of this.home.querySelectorAll("[tabindex='0']")) one.setAttribute("tabindex", "-1");
    row.setAttribute("tabindex", "0");
    if (really) row.focus({ preventScroll: false });
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    const row = /** @type {HTMLElement|null} */ (/** @type {HTMLElement} */ (event.target).closest("[role=treeitem]"));
    if (!row) return;
    const seen = /** @type {HTMLElement[]} */ ([...this.home.querySelectorAll("[role=treeitem]")]
      .filter((one) => /** @type {HTMLElement} */ (one).offsetParent !== null));
    const at = seen.indexOf(row);
    const isOpen = row.getAttribute("aria-expanded") === "true";
    const moves = /** @type {Record<string, () => void>} */ ({
      ArrowDown: () => seen[at + 1] && this._focus(seen[at + 1]),
      ArrowUp: () => seen[at - 1] && this._focus(seen[at - 1]),
      ArrowRight: () => (isOpen || !row.hasAttribute("aria-expanded") ? seen[at + 1] && this._focus(seen[at + 1]) : this.toggle(row, true)),
      ArrowLeft: () => {
        const around = /** @type {HTMLElement|null} */ (row.parentElement?.closest("[role=treeitem]") || null);
        if (isOpen) this.toggle(row, false);
        else if (around) this._focus(around);
      },
      Home: () => this._focus(seen[0]),
      End: () => this._focus(seen[seen.length - 1]),
      Enter: () => this._choose(Number(row.dataset.item), row),
      " ": () => this._choose(Number(row.dataset.item), row),
    });
    if (moves[event.key]) {
      event.preventDefault();
      event.stopPropagation();
      moves[event.key]();
    }
  }
}

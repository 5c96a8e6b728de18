/**
 * Draws a scene as SVG. Elements are kept by their ids, so that boxes glide to their new places;
 * of a large scene only what is in sight is drawn.
 */

import { headingOf, HEADER } from "./layout.js";
import { headFromRight, headOf, pathOf, roundedPath } from "./scene.js";
import { fitted, widthOf } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
/** A scene with more than this is drawn where it is looked at only, and does not glide. */
const MOST_AT_ONCE = 900;
const FAR = 0.3;

/**
 * @typedef {import("./scene.js").Scene} Scene
 * @typedef {import("./scene.js").Shape} Shape
 * @typedef {import("./scene.js").Wire} Wire
 * @typedef {{x: number, y: number, k: number}} View
 */

/** @param {string} tag @param {Record<string, string|number>} attributes @param {string} [text] */
export function svgElement(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Drawing {
  /** @param {SVGSVGElement} svg @param {(shape: Shape) => {fill: string, text: string}|null} paint
   * @param {(shape: Shape) => string} tell what a screen reader says of a box
   * @param {(shape: Shape) => string[]} classes more of a box's classes */
  constructor(svg, paint, tell, classes) {
    this.classes = classes;
    this.svg = svg;
    this.paint = paint;
    this.tell = tell;
    this.world = svg.appendChild(svgElement("g", { class: "world" }));
    this.frames = this.world.appendChild(svgElement("g", { class: "frames" }));
    this.lines = this.world.appendChild(svgElement("g", { class: "wires" }));
    this.boxes = this.world.appendChild(svgElement("g", { class: "boxes" }));
    /** @type {Map<string, SVGElement>} */ this.drawn = new Map();
    /** @type {Map<string, string>} what each element shows */ this.states = new Map();
    /** @type {Scene|null} */ this.scene = null;
    /** @type {View} */ this.view = { x: 0, y: 0, k: 1 };
    /** @type {Set<string>} */ this.lit = new Set();
    this.selected = "";
  }

  /** @param {Scene} scene */
  show(scene) {
    const before = this.scene;
    this.scene = scene;
    this.isLarge = scene.shapes.length + scene.wires.length > MOST_AT_ONCE;
    this.svg.classList.toggle("still", this.isLarge);
    this._update(before);
  }

  /** @param {View} view */
  move(view) {
    this.view = view;
    this.world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
    this.svg.classList.toggle("far", view.k < FAR);
    if (this.isLarge && !this._waiting) {
      this._waiting = true;
      requestAnimationFrame(() => {
        this._waiting = false;
        this._update(null);
      });
    }
  }

  /** The part of the scene that is in sight, with room around it. */
  _sight() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    const { x, y, k } = this.view;
    const [mx, my] = [width * 0.3, height * 0.3];
    return { left: (-x - mx) / k, top: (-y - my) / k, right: (width - x + mx) / k, bottom: (height - y + my) / k };
  }

  /** @param {Scene|null} before where boxes glide from */
  _update(before) {
    const { scene } = this;
    if (!scene) return;
    const sight = this._sight();
    const least = 2 / this.view.k;
    const isSeen = (/** @type {number} */ l, /** @type {number} */ t, /** @type {number} */ r, /** @type {number} */ b) =>
      !this.isLarge || (l < sight.right && r > sight.left && t < sight.bottom && b > sight.top
        && Math.max(r - l, b - t) > least);
    /** @type {Set<string>} */ const kept = new Set();
    for (const shape of scene.shapes) {
      if (!isSeen(shape.x, shape.y, shape.x + shape.w, shape.y + shape.h)) continue;
      const key = `${shape.open ? "f" : "b"}${shape.id}`;
      kept.add(key);
      this._box(key, shape, before);
    }
    for (const wire of scene.wires) {
      if (!isSeen(...wire.bounds)) continue;
      const key = `e${wire.id}`;
      kept.add(key);
      this._wire(key, wire);
    }
    for (const [key, element] of this.drawn)
      if (!kept.has(key)) {
        element.remove();
        this.drawn.delete(key);
        this.states.delete(key);
      }
    // Frames lie below what is in them.
    if (!this.isLarge || before) {
      const frames = scene.shapes.filter((shape) => shape.open).map((shape) => this.drawn.get(`f${shape.id}`));
      frames.forEach((frame, number) => {
        if (frame && this.frames.children[number] !== frame) this.frames.insertBefore(frame, this.frames.children[number] || null);
      });
    }
  }

  /** @param {string} key @param {Shape} shape @param {Scene|null} before */
  _box(key, shape, before) {
    const paint = this.paint(shape);
    const state = `${shape.x} ${shape.y} ${shape.w} ${shape.h} ${shape.box.title} ${paint?.fill}`;
    let element = this.drawn.get(key);
    if (element && this.states.get(key) === state) return;
    if (!element) {
      element = svgElement("g", { class: `box ${shape.box.kind}`, role: "button", tabindex: -1 });
      element.dataset.name = shape.id;
      this.drawn.set(key, element);
      (shape.open ? this.frames : this.boxes).append(element);
      const old = before?.byId.get(shape.id);
      this._place(element, old || shape);
      if (old && !this.isLarge) {
        this._fill(element, shape, paint);
        this._size(element, old);
        element.getBoundingClientRect(); // the old place is where it glides from
      } else if (before && !this.isLarge) element.classList.add("new");
    }
    this._fill(element, shape, paint);
    this._place(element, shape);
    this.states.set(key, state);
  }

  /** @param {SVGElement} element @param {{x: number, y: number}} shape */
  _place(element, { x, y }) {
    element.style.transform = `translate(${x}px, ${y}px)`;
  }

  /** @param {SVGElement} element @param {{w: number, h: number}} shape */
  _size(element, { w, h }) {
    for (const rect of element.querySelectorAll("rect.body")) {
      const style = /** @type {SVGElement} */ (rect).style;
      style.width = `${w}px`;
      style.height = `${h}px`;
    }
  }

  /** @param {SVGElement} element @param {Shape} shape @param {{fill: string, text: string}|null} paint */
  _fill(element, shape, paint) {
    const { box, w, h, open } = shape;
    const classes = ["box", box.kind, open ? "open" : "closed", `deep${shape.depth % 2}`];
    if (element.classList.contains("new")) classes.push("new");
    if (paint) classes.push("painted");
    classes.push(...this.classes(shape));
    if (shape.id === this.selected) classes.push("chosen");
    element.setAttribute("class", classes.join(" "));
    element.setAttribute("aria-label", this.tell(shape));
    if (canOpen(shape)) element.setAttribute("aria-expanded", String(open));
    const rounded = box.kind === "input" || box.kind === "output" || box.kind === "ends" ? h / 2 : box.kind === "op" || box.kind === "layout" ? 9 : 5;
    const parts = [];
    if (box.times > 1 && !open)
      parts.push(svgElement("rect", { class: "body behind", x: 4, y: 4, width: w, height: h, rx: rounded }));
    const body = svgElement("rect", { class: "body", width: w, height: h, rx: open ? 7 : rounded });
    parts.push(body);
    if (shape.loop) parts.push(...loop(w, h));
    parts.push(...(open ? heading(shape) : lines(shape)));
    if (canOpen(shape)) parts.push(sign(shape));
    element.replaceChildren(...parts);
    this._size(element, shape);
    if (paint) {
      body.style.fill = paint.fill;
      for (const text of element.querySelectorAll("text")) /** @type {SVGElement} */ (text).style.fill = open ? "" : paint.text;
    }
  }

  /** @param {string} key @param {Wire} wire */
  _wire(key, wire) {
    const d = wire.legs.map(wire.turns ? roundedPath : pathOf).join("");
    if (this.drawn.has(key) && this.states.get(key) === d) return;
    this.drawn.get(key)?.remove();
    const element = svgElement("g", { class: `wire${wire.skip ? " skip" : ""}${wire.carried ? " carried" : ""}` });
    element.dataset.wire = wire.id;
    // Where a tensor leaves an open box its line goes on outside.
    const heads = wire.to.startsWith("out:") ? [] : wire.legs.map((leg) => (wire.carried ? headFromRight(leg) : headOf(leg)));
    element.append(svgElement("path", { class: "hit", d }), svgElement("path", { class: "line", d }));
    if (heads.length) element.append(svgElement("path", { class: "head", d: heads.join("") }));
    if (wire.tensors.some((tensor) => this.lit.has(`t${tensor}`))) element.classList.add("lit");
    this.lines.append(element);
    this.drawn.set(key, element);
    this.states.set(key, d);
  }

  /** Lights edges that carry any of some tensors, and boxes. @param {Iterable<number>} tensors
   * @param {Iterable<string>} boxes */
  light(tensors, boxes) {
    this.lit = new Set([...[...tensors].map((tensor) => `t${tensor}`), ...[...boxes].map((id) => `b${id}`)]);
    this.svg.classList.toggle("lighting", this.lit.size > 0);
    if (!this.scene) return;
    for (const wire of this.scene.wires)
      this.drawn.get(`e${wire.id}`)?.classList.toggle("lit", wire.tensors.some((tensor) => this.lit.has(`t${tensor}`)));
    for (const shape of this.scene.shapes)
      this.drawn.get(`${shape.open ? "f" : "b"}${shape.id}`)?.classList.toggle("lit", this.lit.has(`b${shape.id}`));
  }

  /** @param {string} id */
  choose(id) {
    this.selected = id;
    for (const element of this.drawn.values()) {
      const isChosen = id !== "" && element.dataset.name === id;
      element.classList.toggle("chosen", isChosen);
      if (element.dataset.name !== undefined) element.setAttribute("tabindex", isChosen ? "0" : "-1");
    }
  }

  /** Draws all again, in other colours. */
  repaint() {
    this.states.clear();
    this._update(null);
  }

  /** @param {string} id @returns {SVGElement|undefined} */
  element(id) {
    return this.drawn.get(`f${id}`) || this.drawn.get(`b${id}`);
  }
}

/** @param {Shape} shape */
function canOpen({ box, open }) {
  return open || !["op", "held", "input", "output"].includes(box.kind);
}

/** @param {Shape} shape */
function lines({ lines: all, w }) {
  let y = 8;
  return all.map(({ text, size, bold, muted }) => {
    y += size === 13 ? 17 : 15;
    const kind = `${bold ? "bold" : ""}${muted ? " muted" : ""}`.trim();
    return svgElement("text", { class: `${kind} middle`.trim(), x: w / 2, y: y - 4, "font-size": size }, text);
  });
}

/** @param {Shape} shape */
function heading({ box, w }) {
  const [title, label] = headingOf(box);
  const shown = fitted(title, 13, w - 46, true);
  const at = 28 + widthOf(shown, 13, true) + 8;
  const parts = [svgElement("text", { class: "bold", x: 28, y: 18, "font-size": 13 }, shown)];
  const room = w - at - 10;
  const more = [label, box.varies].filter(Boolean).join(", ");
  if (more && room > 30) parts.push(svgElement("text", { class: "muted", x: at, y: 18, "font-size": 11 }, fitted(more, 11, room)));
  return parts;
}

/** The sign that opens and closes a box. @param {Shape} shape */
function sign({ open, h }) {
  const made = svgElement("g", { class: "sign", transform: "translate(6 6)" });
  made.append(
    svgElement("rect", { class: "reach", x: -6, y: -6, width: 28, height: open ? HEADER : Math.min(h, 28) }),
    svgElement("rect", { class: "plate", width: 14, height: 14, rx: 3.5 }),
    svgElement("path", { class: "cross", d: open ? "M3.5 7H10.5" : "M3.5 7H10.5M7 3.5V10.5" }));
  return made;
}

/** What each copy reads of the one before. @param {number} w @param {number} h */
function loop(w, h) {
  const d = `M${w} ${h - 12}C${w + 18} ${h - 12} ${w + 18} 14 ${w + 3} 14`;
  return [svgElement("path", { class: "loop", d }),
    svgElement("path", { class: "loophead", d: `M${w + 1} 14L${w + 8} 10.5L${w + 8} 17.5Z` })];
}

/** Where one looks: drag, wheel and pinch at the pointer (d3-zoom), and gliding to a place. */

import { select } from "d3-selection";
import { zoom, zoomIdentity, zoomTransform } from "d3-zoom";

/** @typedef {{x: number, y: number, k: number}} View */

const GLIDE_MS = 280;

export class Camera {
  /** @param {SVGSVGElement} svg @param {(view: View, isUsers: boolean) => void} moved
   * @param {(event: MouseEvent) => boolean} doubleClicked whether a double click was used */
  constructor(svg, moved, doubleClicked) {
    this.svg = svg;
    this.selection = select(svg);
    this._gliding = 0;
    this.zoom = zoom()
      .scaleExtent([0.01, 6])
      .clickDistance(5)
      .filter((event) => !event.button)
      .on("start", () => svg.classList.add("moving"))
      .on("end", () => svg.classList.remove("moving"))
      .on("zoom", ({ transform, sourceEvent }) => {
        if (sourceEvent) this.stop();
        moved({ x: transform.x, y: transform.y, k: transform.k }, !!sourceEvent);
      });
    this.selection.call(/** @type {any} */ (this.zoom));
    this.selection.on("dblclick.zoom", (event) => {
      event.preventDefault();
      if (!doubleClicked(event)) {
        const box = svg.getBoundingClientRect();
        this.by(event.shiftKey ? 0.5 : 2, [event.clientX - box.left, event.clientY - box.top]);
      }
    });
  }

  /** @returns {View} */
  get view() {
    const { x, y, k } = zoomTransform(this.svg);
    return { x, y, k };
  }

  stop() {
    cancelAnimationFrame(this._gliding);
  }

  /** @param {View} view @param {boolean} [isGliding] */
  to(view, isGliding = false) {
    this.stop();
    const set = (/** @type {View} */ { x, y, k }) =>
      this.zoom.transform(/** @type {any} */ (this.selection), zoomIdentity.translate(x, y).scale(k));
    if (!isGliding || matchMedia("(prefers-reduced-motion: reduce)").matches) return set(view);
    const from = this.view, start = performance.now();
    const { clientWidth: width, clientHeight: height } = this.svg;
    // The middle moves evenly, the scale by equal ratios.
    const middle = (/** @type {View} */ { x, y, k }) => [(width / 2 - x) / k, (height / 2 - y) / k];
    const [one, two] = [middle(from), middle(view)];
    const frame = (/** @type {number} */ now) => {
      const part = Math.min(1, (now - start) / GLIDE_MS);
      const eased = part * part * (3 - 2 * part);
      const k = from.k * (view.k / from.k) ** eased;
      const at = one.map((value, n) => value + (two[n] - value) * eased);
      set(part < 1 ? { x: width / 2 - at[0] * k, y: height / 2 - at[1] * k, k } : view);
      if (part < 1) this._gliding = requestAnimationFrame(frame);
    };
    this._gliding = requestAnimationFrame(frame);
    return undefined;
  }

  /** Zooms at a point of the window. @param {number} factor @param {[number, number]} [point] */
  by(factor, point) {
    const { x, y, k } = this.view;
    const [px, py] = point || [this.svg.clientWidth / 2, this.svg.clientHeight / 2];
    const next = Math.min(6, Math.max(0.01, k * factor));
    this.to({ x: px - ((px - x) / k) * next, y: py - ((py - y) / k) * next, k: next }, true);
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    const { x, y, k } = this.view;
    this.to({ x: x + dx, y: y + dy, k });
  }
}

/** The view in which a rectangle fills a window. @param {{x: number, y: number, w: number, h: number}} rect
 * @param {{width: number, height: number}} room @param {number} [most] @returns {View} */
export function fitting(rect, room, most = 1.25) {
  const margin = Math.min(24, room.width * 0.03);
  const k = Math.min(most, (room.width - 2 * margin) / rect.w, (room.height - 2 * margin) / rect.h);
  return { k, x: (room.width - rect.w * k) / 2 - rect.x * k, y: (room.height - rect.h * k) / 2 - rect.y * k };
}

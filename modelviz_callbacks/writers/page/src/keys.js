/** Everything by keyboard. */

import { byId } from "./dom.js";

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** What the page's help lists. */
export const KEYS = [
  ["arrows", "go to the box in that direction, down into an open one, up out of it"],
  ["Enter", "open or close the box in place"],
  ["f", "look into the box"], ["Backspace", "look at what is around it"],
  ["u", "unroll repeats, or roll them up"],
  ["/", "search"], ["+ −", "zoom"], ["0", "fit all"], ["c", "bring the chosen box into the middle"],
  ["Shift + arrows", "move the picture"], ["1 2 3", "levels of boxes"], ["e", "expand all"], ["x", "collapse all"],
  ["n p", "next and previous difference"], ["d", "details"], ["Escape", "choose nothing"], ["?", "this list"],
];

/** @param {import("./app.js").App} app @param {{drawer: () => void, help: () => void}} more */
export function useKeys(app, { drawer, help }) {
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog")) return;
    const run = action(app, event, { drawer, help });
    if (!run) return;
    if (event.key === "Enter" && target.closest("button, a, summary")) return; // they have their own
    event.preventDefault();
    run();
  });
}

/** @param {import("./app.js").App} app @param {KeyboardEvent} event
 * @param {{drawer: () => void, help: () => void}} more @returns {(() => void)|undefined} */
function action(app, event, { drawer, help }) {
  const { key, shiftKey } = event;
  const box = app.tree.byId.get(app.chosen);
  if (key in DIRECTIONS) {
    const [dx, dy] = DIRECTIONS[/** @type {keyof typeof DIRECTIONS} */ (key)];
    if (shiftKey) return () => app.camera.pan(-dx * 90, -dy * 90);
    return () => walk(app, dx, dy);
  }
  const actions = /** @type {Record<string, () => void>} */ ({
    Enter: () => box && app.toggle(box),
    " ": () => box && app.toggle(box),
    f: () => box && app.tree.canOpen(box) && app.focusOn(box.id),
    Backspace: () => {
      const view = app.viewBox();
      if (view.parent) app.focusOn(view.parent.id);
    },
    u: () => {
      if (!box) return;
      const rolled = app.copyOf(box);
      if (rolled) app.roll(rolled);
      else if (box.kind === "repeat") app.unroll(box);
    },
    "/": () => byId("search").focus(),
    "+": () => app.camera.by(1.4), "=": () => app.camera.by(1.4), "-": () => app.camera.by(1 / 1.4),
    0: () => app.fit(true), c: () => app.chosen && app.centre(app.chosen),
    1: () => app.level(1), 2: () => app.level(2), 3: () => app.level(3),
    e: () => app.level(Infinity), x: () => app.level(0), d: drawer, "?": help,
    n: () => app.stepDifference(1), p: () => app.stepDifference(-1),
    Escape: () => app.choose(""),
  });
  return actions[key];
}

/** @param {import("./app.js").App} app @param {number} dx @param {number} dy */
function walk(app, dx, dy) {
  const { scene } = app;
  if (!scene) return;
  const from = scene.byId.get(app.chosen);
  const next = from ? nearest(scene, from, dx, dy) : scene.shapes[0];
  if (!next) return;
  app.choose(next.id);
  const element = app.drawing.element(next.id);
  element?.focus({ preventScroll: true });
  const { x, y, k } = app.camera.view;
  const { width, height } = app.room();
  const left = next.x * k + x, top = next.y * k + y;
  const isSeen = left > 0 && top > 0 && left + Math.min(next.w * k, width) <= width && top + Math.min(next.h * k, 60) <= height;
  if (!isSeen) app.centre(next.id, k);
}

/** @param {import("./scene.js").Scene} scene @param {import("./scene.js").Shape} from @param {number} dx
 * @param {number} dy */
function nearest(scene, from, dx, dy) {
  const inside = scene.shapes.filter((shape) => shape.box.parent === from.box);
  if (dy > 0 && from.open && inside.length) return inside.reduce((one, two) => (two.y < one.y ? two : one));
  const beside = scene.shapes.filter((shape) => shape !== from && shape.box.parent === from.box.parent);
  let best = null, least = Infinity;
  for (const shape of beside) {
    const gapX = shape.x + shape.w / 2 - from.x - from.w / 2, gapY = shape.y + shape.h / 2 - from.y - from.h / 2;
    const along = gapX * dx + gapY * dy, across = Math.abs(gapX * dy) + Math.abs(gapY * dx);
    if (along <= 4 || across > along * 3 + 200) continue;
    if (along + across * 1.5 < least) [best, least] = [shape, along + across * 1.5];
  }
  if (best) return best;
  return dy < 0 && from.box.parent ? scene.byId.get(from.box.parent.id) || null : null;
}

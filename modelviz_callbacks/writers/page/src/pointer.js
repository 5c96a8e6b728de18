/** What the pointer does on the picture: choosing, opening by the sign, lighting what is under it. */

import { shapeText } from "./graph.js";

/** @param {import("./app.js").App} app */
export function usePointer(app) {
  const { svg, drawing } = app;
  const boxOf = (/** @type {EventTarget|null} */ target) => {
    const element = /** @type {SVGElement|null} */ (/** @type {Element} */ (target).closest?.(".box"));
    return element ? element.dataset.name || "" : "";
  };
  const wireOf = (/** @type {EventTarget|null} */ target) => {
    const element = /** @type {SVGElement|null} */ (/** @type {Element} */ (target).closest?.(".wire"));
    return app.scene?.wires.find((wire) => wire.id === element?.dataset.wire);
  };
  svg.addEventListener("click", (event) => {
    const id = boxOf(event.target);
    const wire = wireOf(event.target);
    if (id) {
      const box = app.tree.byId.get(id);
      if (/** @type {Element} */ (event.target).closest(".sign") && box) {
        app.choose(id);
        app.toggle(box);
      } else app.choose(id);
    } else if (wire) app.pin(wire.tensors[0]);
    else app.choose("");
  });
  svg.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" || event.buttons) return;
    const wire = wireOf(event.target);
    if (wire) {
      drawing.light(wire.tensors, app._endsOf(wire.tensors));
      app.tip.show([...wireLines(app, wire.tensors), wire.carried ? "read by the next step" : ""], event);
      app.isLit = true;
      return;
    }
    const id = boxOf(event.target);
    const box = id ? app.tree.byId.get(id) : null;
    if (box && !/** @type {Element} */ (event.target).closest(".open")) {
      drawing.light(app._around(id), [id]);
      app.tip.show([box.title + (box.times > 1 ? ` ×${box.times}` : ""), box.label, box.detail, box.varies, app.tree.shapes(box),
        ...sourceOf(app, box)], event);
      app.isLit = true;
    } else leave();
  });
  const leave = () => {
    app.tip.hide();
    if (app.isLit) app._light();
    app.isLit = false;
  };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointerdown", () => app.tip.hide());
}

/** @param {import("./app.js").App} app @param {number[]} tensors */
function wireLines(app, tensors) {
  const { graph } = app;
  const lines = tensors.slice(0, 4).map((tensor) => {
    const spec = graph.spec(tensor);
    return `${graph.tensorName(tensor)} · ${shapeText(spec)} ${spec.dtype}`;
  });
  if (tensors.length > 4) lines.push(`${tensors.length - 4} more`);
  return lines;
}

/** @param {import("./app.js").App} app @param {import("./tree.js").Box} box */
function sourceOf(app, box) {
  if (box.items.length !== 1 || box.items[0] < 0) return [];
  const { file, line } = app.graph.nodes[box.items[0]];
  return file ? [`${file}:${line}`] : [];
}

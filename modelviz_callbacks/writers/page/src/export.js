/**
 * What is seen as SVG or PNG: every shape with the looks it has now. The PNG is painted shape by
 * shape, as the page's policy lets no image in.
 */

/**
 * @typedef {{kind: "rect"|"path"|"text", matrix: DOMMatrix, fill: string, stroke: string, width: number,
 *   dash: number[], opacity: number, w: number, h: number, rx: number, d: string, text: string, x: number,
 *   y: number, font: string, size: number, weight: string, anchor: string}} Primitive
 */

/** @param {SVGSVGElement} svg @returns {Primitive[]} what of it is in its window */
export function seen(svg) {
  const frame = svg.getBoundingClientRect();
  /** @type {Primitive[]} */ const found = [];
  for (const element of svg.querySelectorAll("rect, path, text")) {
    const shape = /** @type {SVGGraphicsElement} */ (element);
    const style = getComputedStyle(shape);
    if (shape.classList.contains("hit") || shape.classList.contains("reach") || style.display === "none") continue;
    const box = shape.getBoundingClientRect();
    if (box.right < frame.left || box.left > frame.right || box.bottom < frame.top || box.top > frame.bottom) continue;
    const screen = shape.getScreenCTM();
    if (!screen) continue;
    const number = (/** @type {string} */ name) => Number(shape.getAttribute(name)) || 0;
    found.push({
      kind: /** @type {"rect"|"path"|"text"} */ (shape.tagName),
      matrix: new DOMMatrix([screen.a, screen.b, screen.c, screen.d, screen.e - frame.left, screen.f - frame.top]),
      fill: style.fill, stroke: style.stroke, width: parseFloat(style.strokeWidth) || 0,
      dash: style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(/[ ,]+/).map(parseFloat),
      opacity: opacityOf(shape), w: parseFloat(style.width) || number("width"), h: parseFloat(style.height) || number("height"),
      rx: number("rx"), d: shape.getAttribute("d") || "", text: shape.textContent || "", x: number("x"), y: number("y"),
      font: style.fontFamily, size: parseFloat(style.fontSize), weight: style.fontWeight, anchor: style.textAnchor,
    });
  }
  return found;
}

/** @param {Element} element */
function opacityOf(element) {
  let opacity = 1;
  for (let one = /** @type {Element|null} */ (element); one && one.tagName !== "svg"; one = one.parentElement)
    opacity *= parseFloat(getComputedStyle(one).opacity);
  return opacity;
}

/** @param {Primitive[]} shapes @param {number} width @param {number} height @param {string} ground
 * @param {string} title @returns {string} */
export function toSvg(shapes, width, height, ground, title) {
  const out = document.implementation.createDocument("http://www.w3.org/2000/svg", "svg", null);
  const make = (/** @type {Element} */ home, /** @type {string} */ tag, /** @type {Record<string, any>} */ attributes, text = "") => {
    const made = out.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(name, String(value));
    if (text) made.textContent = text;
    return home.appendChild(made);
  };
  const root = out.documentElement;
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) root.setAttribute(name, String(value));
  make(root, "title", {}, title);
  make(root, "rect", { width, height, fill: ground });
  for (const one of shapes) {
    const { a, b, c, d, e, f } = one.matrix;
    const looks = { transform: `matrix(${[a, b, c, d, e, f].map((value) => Number(value.toFixed(3))).join(" ")})`, fill: one.fill,
      stroke: one.kind === "text" || one.stroke === "none" ? "" : one.stroke, "stroke-width": one.stroke === "none" ? "" : one.width,
      "stroke-dasharray": one.dash.join(" "), opacity: one.opacity < 1 ? one.opacity : "" };
    if (one.kind === "rect") make(root, "rect", { ...looks, width: one.w, height: one.h, rx: one.rx });
    else if (one.kind === "path") make(root, "path", { ...looks, d: one.d });
    else make(root, "text", { ...looks, x: one.x, y: one.y, "font-family": one.font, "font-size": one.size,
      "font-weight": one.weight, "text-anchor": one.anchor }, one.text);
  }
  return new XMLSerializer().serializeToString(out);
}

/** @param {Primitive[]} shapes @param {number} width @param {number} height @param {string} ground
 * @returns {Promise<Blob|null>} */
export function toPng(shapes, width, height, ground) {
  const scale = Math.min(3, 8000 / width, 8000 / height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  if (!pen) return Promise.resolve(null);
  pen.scale(scale, scale);
  pen.fillStyle = ground;
  pen.fillRect(0, 0, width, height);
  for (const one of shapes) paint(pen, one);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** @param {CanvasRenderingContext2D} pen @param {Primitive} one */
function paint(pen, one) {
  pen.save();
  pen.globalAlpha = one.opacity;
  const { a, b, c, d, e, f } = one.matrix;
  pen.transform(a, b, c, d, e, f);
  if (one.kind === "text") {
    pen.font = `${one.weight} ${one.size}px ${one.font}`;
    pen.textAlign = one.anchor === "middle" ? "center" : "left";
    pen.fillStyle = one.fill;
    pen.fillText(one.text, one.x, one.y);
  } else {
    const path = new Path2D(one.kind === "path" ? one.d : undefined);
    if (one.kind === "rect") path.roundRect(0, 0, one.w, one.h, Math.min(one.rx, one.w / 2, one.h / 2));
    if (one.fill !== "none") {
      pen.fillStyle = one.fill;
      pen.fill(path);
    }
    if (one.stroke !== "none" && one.width) {
      pen.strokeStyle = one.stroke;
      pen.lineWidth = one.width;
      pen.setLineDash(one.dash);
      pen.stroke(path);
    }
  }
  pen.restore();
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

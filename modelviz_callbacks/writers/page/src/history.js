/**
 * Where one is, in the address and in the browser's history: graph, focus, what is open, selection,
 * place. In a frame without an origin the address cannot be written; the history still can.
 */

/**
 * @typedef {object} Place
 * @property {number} g which graph
 * @property {string} f the box that is looked into
 * @property {string[]|null} o ids of open boxes; null: as at first
 * @property {string[]} u ids of repeats that are unrolled
 * @property {string} s selected box
 * @property {number} t selected tensor, or -1
 * @property {string} c colour mode
 * @property {[number, number, number]|null} v middle of the window and scale
 */

/** @param {Place} place @param {(id: string) => string} shorten */
export function toHash(place, shorten) {
  const parts = [];
  if (place.g) parts.push(`g=${place.g}`);
  if (place.f) parts.push(`f=${encode(place.f)}`);
  if (place.s) parts.push(`s=${encode(place.s)}`);
  if (place.t >= 0) parts.push(`t=${place.t}`);
  if (place.c) parts.push(`c=${place.c}`);
  if (place.u.length) parts.push(`u=${place.u.map((id) => encode(shorten(id))).join(",")}`);
  if (place.o) parts.push(`o=${place.o.map((id) => encode(shorten(id))).join(",")}`);
  if (place.v) parts.push(`v=${place.v.map((value) => Number(value.toPrecision(6))).join(",")}`);
  return parts.length ? `#${parts.join("&")}` : "#";
}

/** @param {string} hash @param {(id: string) => string} lengthen @returns {Place} */
export function fromHash(hash, lengthen) {
  const found = new Map(hash.replace(/^#/, "").split("&").map((part) => {
    const at = part.indexOf("=");
    return [part.slice(0, at), part.slice(at + 1)];
  }));
  const text = (/** @type {string} */ key) => decodeText(found.get(key) || "");
  const list = (/** @type {string} */ key) =>
    (found.get(key) || "").split(",").filter(Boolean).map((id) => lengthen(decodeText(id)));
  const numbers = (found.get("v") || "").split(",").map(Number);
  const v = numbers.length === 3 && numbers.every(Number.isFinite) && numbers[2] > 0
    ? /** @type {[number, number, number]} */ (numbers) : null;
  const tensor = found.has("t") ? Number(found.get("t")) : -1;
  return { g: Number(found.get("g")) || 0, f: text("f"), o: found.has("o") ? list("o") : null, u: list("u"),
    s: text("s"), t: Number.isInteger(tensor) ? tensor : -1, c: text("c"), v };
}

/** @param {string} text */
const encode = (text) => encodeURIComponent(text).replace(/%2F/g, "/").replace(/%7C/g, "|");

/** @param {string} text */
function decodeText(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return ""; // somebody else's hash
  }
}

export class History {
  /** @param {() => Place} read @param {(place: Place) => void} restore
   * @param {{shorten: (id: string) => string, lengthen: (id: string) => string}} ids */
  constructor(read, restore, ids) {
    this.read = read;
    this.ids = ids;
    this._timer = 0;
    addEventListener("popstate", (event) => {
      clearTimeout(this._timer);
      this.restoring = true;
      restore(isPlace(event.state) ? event.state : fromHash(location.hash, ids.lengthen));
      this.restoring = false;
    });
  }

  /** @returns {Place|null} where one was before a reload, or where a link leads */
  first() {
    if (isPlace(history.state)) return history.state;
    return location.hash.length > 1 ? fromHash(location.hash, this.ids.lengthen) : null;
  }

  /** Makes a change that Back takes back. @param {() => void} change */
  step(change) {
    if (this.restoring) return change();
    clearTimeout(this._timer);
    this._write("replaceState"); // where one was, to the last bit of scrolling
    change();
    this._write("pushState");
    return undefined;
  }

  /** Notes where one is, soon. */
  note() {
    if (this.restoring) return;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._write("replaceState"), 200);
  }

  /** @param {"pushState"|"replaceState"} how @param {Place} [place] */
  _write(how, place = this.read()) {
    const hash = toHash(place, this.ids.shorten);
    try {
      history[how](place, "", hash);
    } catch {
      try {
        history[how](place, "");
      } catch {
        // No history here: the page works without.
      }
    }
  }
}

/** @param {any} state @returns {state is Place} */
function isPlace(state) {
  return !!state && typeof state === "object" && "g" in state && Array.isArray(state.u);
}

/** How wide texts are, and how numbers are put into words. */

export const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const pen = document.createElement("canvas").getContext("2d");
/** @type {Map<string, number>} */
const widths = new Map();

/** @param {string} text @param {number} size @param {boolean} [bold] */
export function widthOf(text, size, bold = false) {
  const key = `${bold ? "b" : ""}${size}${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    if (pen) pen.font = `${bold ? "600 " : ""}${size}px ${FONT}`;
    // Without a canvas (some hardened browsers): what letters are on average.
    width = pen ? pen.measureText(text).width : text.length * size * 0.56;
    widths.set(key, width);
  }
  return width;
}

/** The text, shortened to a width in its middle. @param {string} text @param {number} size
 * @param {number} most @param {boolean} [bold] */
export function fitted(text, size, most, bold = false) {
  if (widthOf(text, size, bold) <= most) return text;
  let low = 1, high = text.length;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (widthOf(`${text.slice(0, middle)}…`, size, bold) <= most) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low).trimEnd()}…`;
}

/** ``1.23 M``. @param {number} value @param {number} [base] */
export function short(value, base = 1000) {
  if (Math.abs(value) < 10 * base) return Math.round(value).toLocaleString("en");
  let left = value;
  for (const unit of ["k", "M", "G", "T", "P"]) {
    left /= base;
    if (Math.abs(left) < 999.5 || unit === "P") return `${Number(left.toPrecision(3))} ${unit}`;
  }
  return String(value);
}

/** @param {number} value */
export function bytesText(value) {
  if (value < 1024) return `${Math.round(value)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let left = value, at = -1;
  while (left >= 1023.5 && at < units.length - 1) {
    left /= 1024;
    at++;
  }
  return `${Number(left.toPrecision(3))} ${units[at]}`;
}

/** @param {number} microseconds */
export function timeText(microseconds) {
  if (microseconds >= 1e6) return `${Number((microseconds / 1e6).toPrecision(3))} s`;
  if (microseconds >= 1e3) return `${Number((microseconds / 1e3).toPrecision(3))} ms`;
  return `${Number(microseconds.toPrecision(3))} µs`;
}

/** ``1.2e-3``. @param {number} value */
export function small(value) {
  if (!Number.isFinite(value)) return "not finite";
  return value && (value < 0.01 || value >= 1e4) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** ``97 %``. @param {number} share from 0 to 1 */
export const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

/** @param {number} value */
export const whole = (value) => value.toLocaleString("en");

/** @param {number} count @param {string} word */
export const counted = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

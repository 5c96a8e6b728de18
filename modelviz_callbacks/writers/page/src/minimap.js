/** The whole picture, small, with the part that is in sight; a press moves there. */

const WIDTH = 168, HEIGHT = 112;

export class Minimap {
  /** @param {HTMLCanvasElement} canvas @param {(x: number, y: number) => void} centre in coordinates
   *   of the picture */
  constructor(canvas, centre) {
    this.canvas = canvas;
    this.scale = 1;
    /** @type {import("./scene.js").Scene|null} */ this.scene = null;
    const ratio = Math.min(3, devicePixelRatio || 1);
    canvas.width = WIDTH * ratio;
    canvas.height = HEIGHT * ratio;
    this.pen = canvas.getContext("2d");
    this.pen?.scale(ratio, ratio);
    this.back = document.createElement("canvas");
    const move = (/** @type {PointerEvent} */ event) => {
      if (!this.scene || !(event.buttons & 1)) return;
      const { left, top } = canvas.getBoundingClientRect();
      centre((event.clientX - left - this.dx) / this.scale + this.scene.x, (event.clientY - top - this.dy) / this.scale + this.scene.y);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      move(event);
    });
    canvas.addEventListener("pointermove", move);
    this.dx = this.dy = 0;
  }

  /** @param {import("./scene.js").Scene} scene */
  show(scene) {
    this.scene = scene;
    this.scale = Math.min((WIDTH - 8) / scene.w, (HEIGHT - 8) / scene.h);
    this.dx = (WIDTH - scene.w * this.scale) / 2;
    this.dy = (HEIGHT - scene.h * this.scale) / 2;
    const { back, scale } = this;
    back.width = this.canvas.width;
    back.height = this.canvas.height;
    const pen = back.getContext("2d");
    if (!pen) return;
    const ratio = this.canvas.width / WIDTH;
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const [line, fill] = [style.getPropertyValue("--line"), style.getPropertyValue("--accent")];
    for (const { x, y, w, h, open } of scene.shapes) {
      if (Math.max(w, h) * scale < 0.7) continue;
      pen.globalAlpha = open ? 0.5 : 0.55;
      pen.strokeStyle = line;
      pen.fillStyle = fill;
      const place = /** @type {const} */ ([(x - scene.x) * scale + this.dx, (y - scene.y) * scale + this.dy, Math.max(0.6, w * scale), Math.max(0.6, h * scale)]);
      if (open) pen.strokeRect(...place);
      else pen.fillRect(...place);
    }
  }

  /** @param {import("./camera.js").View} view @param {{width: number, height: number}} room */
  look({ x, y, k }, room) {
    const { pen, scene, scale } = this;
    if (!pen || !scene) return;
    pen.clearRect(0, 0, WIDTH, HEIGHT);
    pen.drawImage(this.back, 0, 0, WIDTH, HEIGHT);
    const left = (-x / k - scene.x) * scale + this.dx, top = (-y / k - scene.y) * scale + this.dy;
    const width = (room.width / k) * scale, height = (room.height / k) * scale;
    const isAll = x + scene.x * k >= 0 && y + scene.y * k >= 0 && x + (scene.x + scene.w) * k <= room.width + 1
      && y + (scene.y + scene.h) * k <= room.height + 1;
    this.canvas.classList.toggle("idle", isAll);
    pen.strokeStyle = getComputedStyle(this.canvas).getPropertyValue("--accent");
    pen.lineWidth = 1.5;
    pen.strokeRect(left, top, width, height);
  }
}

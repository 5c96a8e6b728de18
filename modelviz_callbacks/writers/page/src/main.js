/** Starts the page: reads its data, and joins the controls to the picture. */

import { App } from "./app.js";
import { decode } from "./data.js";
import { byId, h } from "./dom.js";
import { Graph } from "./graph.js";
import { KEYS, useKeys } from "./keys.js";
import { usePointer } from "./pointer.js";

const NARROW = "(max-width: 900px)";

async function start() {
  if (typeof DecompressionStream === "undefined")
    throw new Error("This browser is too old for the page; one of 2023 or later shows it.");
  performance.mark("start");
  const data = await decode(byId("data").textContent);
  const graphs = data.graphs.map((/** @type {any} */ raw) => new Graph(raw, data.code));
  performance.mark("graph");
  const app = new App(graphs, data.depth);
  performance.mark("app");
  useControls(app);
  useDrawer(app);
  usePointer(app);
  useKeys(app, { drawer: () => byId("drawer").click(), help });
  useResize(app);
  app.onload();
  app.onrefresh();
  app._painter();
  document.documentElement.dataset.ready = "yes";
  // For tests and for the curious.
  /** @type {any} */ (window).modelviz = app;
}

/** @param {App} app */
function useControls(app) {
  const graph = byId("graph"), colour = byId("colour");
  app.graphs.forEach((one, number) => graph.append(h("option", { value: number }, one.label || one.name)));
  graph.hidden = app.graphs.length < 2;
  graph.addEventListener("change", () => app.history.step(() => app.useGraph(Number(graph.value))));
  colour.addEventListener("change", () => app.colourBy(colour.value));
  app.onload = () => {
    graph.value = String(app.at);
    colour.replaceChildren(h("option", { value: "" }, "colour: kind"),
      ...app.modes.map(({ id, title }) => h("option", { value: id }, title)));
    colour.value = app.colour;
    byId("bookkeeping").hidden = !app.hasBookkeeping;
    byId("steps").hidden = !app.graph.differences.length;
  };
  app.onrefresh = () => {
    colour.value = app.colour;
    graph.value = String(app.at);
  };
  app.onlegend = (title, entries) => {
    const legend = byId("legend");
    legend.hidden = !entries.length;
    legend.replaceChildren(h("b", {}, title), ...entries.map(({ text, fill }) => {
      const swatch = h("i", {});
      swatch.style.background = fill;
      return h("span", {}, swatch, text);
    }));
  };
  for (const button of document.querySelectorAll("[data-level]"))
    button.addEventListener("click", () => {
      app.level(Number(/** @type {HTMLElement} */ (button).dataset.level) || Infinity);
      closeMenu();
    });
  const clicks = /** @type {Record<string, () => void>} */ ({
    fit: () => app.fit(true), zoomin: () => app.camera.by(1.5), zoomout: () => app.camera.by(1 / 1.5),
    savesvg: () => app.export("svg"), savepng: () => app.export("png"), copylink: () => app.copyLink(), help,
    next: () => app.stepDifference(1), previous: () => app.stepDifference(-1),
  });
  for (const [id, run] of Object.entries(clicks))
    byId(id).addEventListener("click", () => {
      run();
      closeMenu();
    });
  byId("bookkeepingbox").addEventListener("change", (/** @type {Event} */ event) =>
    app.showBookkeeping(/** @type {HTMLInputElement} */ (event.target).checked));
  const more = byId("more"), menu = byId("menu");
  more.addEventListener("click", () => {
    menu.hidden = !menu.hidden;
    more.setAttribute("aria-expanded", String(!menu.hidden));
    if (!menu.hidden) menu.querySelector("button, select")?.focus();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!menu.contains(event.target) && event.target !== more) closeMenu();
  });
  menu.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") {
      closeMenu();
      more.focus();
    }
  });
}

function closeMenu() {
  byId("menu").hidden = true;
  byId("more").setAttribute("aria-expanded", "false");
}

function help() {
  const dialog = byId("keys");
  byId("keylist").replaceChildren(...KEYS.flatMap(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]));
  dialog.showModal();
}

/** On a narrow window the panel is a drawer, and the controls are in the menu. @param {App} app */
function useDrawer(app) {
  const panel = byId("panel"), drawer = byId("drawer"), controls = byId("controls");
  const media = matchMedia(NARROW);
  const set = (/** @type {"open"|"peek"|"closed"} */ state) => {
    panel.dataset.state = state;
    drawer.setAttribute("aria-expanded", String(state === "open"));
  };
  const arrange = () => {
    if (media.matches) byId("menu").prepend(controls);
    else byId("bar").insertBefore(controls, byId("fit"));
    set(media.matches ? "closed" : "open");
  };
  media.addEventListener("change", arrange);
  arrange();
  const toggle = () => set(panel.dataset.state === "open" ? (media.matches ? "closed" : "closed") : "open");
  drawer.addEventListener("click", toggle);
  byId("handle").addEventListener("click", () => set(panel.dataset.state === "open" ? "peek" : "open"));
  app.onchoose = (isChosen) => {
    if (!media.matches) return;
    if (!isChosen) set("closed");
    else if (panel.dataset.state === "closed") set("peek");
  };
}

/** What was fitted stays fitted, and else the middle stays the middle. @param {App} app */
function useResize(app) {
  let last = app.room();
  let timer = 0;
  new ResizeObserver(() => {
    const now = app.room();
    if (now.width === last.width && now.height === last.height) return;
    const { x, y, k } = app.camera.view;
    app.camera.to({ k, x: x + (now.width - last.width) / 2, y: y + (now.height - last.height) / 2 });
    last = now;
    clearTimeout(timer);
    timer = setTimeout(() => app.drawing.move(app.camera.view), 50);
  }).observe(app.svg);
}

start().catch((error) => {
  const place = byId("status");
  place.textContent = String(error.message || error);
  place.classList.add("shown", "failed");
  throw error;
});

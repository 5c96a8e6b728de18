/** Reads where one is, and goes to a place that was read before. */

/**
 * @typedef {import("./app.js").App} App
 * @typedef {import("./history.js").Place} Place
 */

/** @param {App} app @returns {Place} */
export function placeOf(app) {
  const { k, x, y } = app.camera.view;
  const { width, height } = app.room();
  const isFirst = app.opened.size === app.first.size && [...app.opened].every((id) => app.first.has(id));
  return {
    g: app.at, f: app.focus, o: isFirst ? null : [...app.opened], u: [...(app.tree?.unrolled || [])],
    s: app.chosen, t: app.pinned, c: app.colour,
    v: app.scene ? [(width / 2 - x) / k - app.scene.x, (height / 2 - y) / k - app.scene.y, k] : null,
  };
}

/** @param {App} app @param {Place} place */
export function restore(app, place) {
  const isOther = place.g !== app.at;
  if (isOther) app.load(place.g);
  const unrolled = place.u.join("\n") !== [...app.tree.unrolled].join("\n");
  if (unrolled) {
    app.tree.unrolled = new Set(place.u);
    app.rebuild();
  }
  app.opened = new Set(place.o || app.first);
  app.warm(app.opened, place.f);
  app.focus = app.tree.byId.has(place.f) ? place.f : "";
  app.colour = app.modes.some((mode) => mode.id === place.c) ? place.c : "";
  app.chosen = place.s;
  app.pinned = place.t < app.graph.producer.length ? place.t : -1;
  if (isOther) app.afterLoad();
  app.fresh = true;
  app.refresh();
  if (place.v && app.scene) {
    const [cx, cy, k] = place.v;
    const { width, height } = app.room();
    app.camera.to({ k, x: width / 2 - (cx + app.scene.x) * k, y: height / 2 - (cy + app.scene.y) * k });
  } else app.fit();
  if (app.chosen && app.chosen !== app.focus && !app.scene?.byId.has(app.chosen)) goTo(app, app.chosen);
  app.details();
  app.onchoose(app.chosen !== "" || app.pinned >= 0);
}

/** Chooses what a link names, wherever it is. @param {App} app @param {string} name */
function goTo(app, name) {
  const target = app.graph.find(name);
  app.chosen = "";
  if (!target) return;
  const box = app.reveal(target);
  app.chosen = box.id;
  app.refresh();
  app.centre(box.id);
}

/** Modules by their numbers: names would make addresses too long.
 * @param {import("./graph.js").Graph} graph @param {string} id */
export function shorten(graph, id) {
  const isRepeat = id.endsWith("/*");
  const found = graph.find(isRepeat ? id.slice(0, -2) : id);
  return found && "scope" in found ? `~${found.scope.toString(36)}${isRepeat ? "*" : ""}` : id;
}

/** @param {import("./graph.js").Graph} graph @param {string} id */
export function lengthen(graph, id) {
  const [, number, repeat] = /^~([0-9a-z]+)(\*?)$/.exec(id) || [];
  const scope = number && graph.scopes[parseInt(number, 36)];
  return scope ? scope.name + (repeat ? "/*" : "") : id;
}

"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const stage = byId("stage"), panel = byId("panel"), found = byId("found");
  const search = byId("search"), colour = byId("colour");
  let scope = "", chosen = "", zoom = 0;

  function element(tag, attributes = {}, text = null, ns = null) {
    const made = ns ? document.createElementNS(ns, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  }
  const shape = (tag, attributes, text = null) => element(tag, attributes, text, SVG);

  // ---- colours -------------------------------------------------------------------------
  const CATEGORIES = ["#3b7ddd", "#d08a12", "#2c9a52", "#a45bd0", "#d1495b", "#2a9d9d", "#808a96"];
  const TRAINING = { trainable: "#3b7ddd", mixed: "#8a6fd1", frozen: "#8b949e", none: "none" };

  function painter(view) {
    const by = colour.value;
    if (!by) return null;
    const boxes = Object.values(view.boxes);
    if (by === "training") {
      const words = [...new Set(boxes.map((box) => box.training || "none"))];
      const named = words.filter((word) => word !== "none").map((word) => [word, TRAINING[word]]);
      return { paint: (box) => TRAINING[box.training || "none"], legend: named };
    }
    if (by === "dtype") {
      const words = [...new Set(boxes.map((box) => box.dtype).filter(Boolean))].sort();
      const at = new Map(words.map((word, n) => [word, CATEGORIES[n % CATEGORIES.length]]));
      return { paint: (box) => at.get(box.dtype) || "none", legend: [...at] };
    }
    const most = Math.max(1, ...drawnBoxes(view).map((box) => box[by] || 0));
    const heat = (value) => {
      const part = Math.sqrt(value / most);
      return `hsl(${Math.round(50 - 42 * part)} 90% ${Math.round(72 - 22 * part)}%)`;
    };
    const steps = [most, most / 10, most / 100].filter((step) => step >= 1);
    const unit = by === "time" ? " µs" : "";
    return {
      paint: (box) => (box[by] ? heat(box[by]) : "none"),
      legend: steps.map((step) => [Math.round(step).toLocaleString("en") + unit, heat(step)]),
    };
  }

  // Only what is known of some box can be shown as a colour.
  const every = Object.values(data.views).flatMap((view) => Object.values(view.boxes));
  for (const option of [...colour.options]) {
    const by = option.value;
    if (by && !every.some((box) => box[by] && box[by] !== "none")) option.remove();
  }

  function drawnBoxes(view) {
    const groups = new Set(view.shapes.filter((s) => s[0] === "b" && s[2].startsWith("group"))
      .map((s) => s[1]));
    return Object.entries(view.boxes).filter(([name]) => !groups.has(name)).map((pair) => pair[1]);
  }

  // ---- the picture ---------------------------------------------------------------------
  function arrow(points, role) {
    const pairs = [];
    for (let n = 0; n < points.length; n += 2) pairs.push([points[n], points[n + 1]]);
    const tip = pairs.pop(), end = pairs[pairs.length - 1];
    const angle = Math.atan2(tip[1] - end[1], tip[0] - end[0]);
    const back = [tip[0] - 6 * Math.cos(angle), tip[1] - 6 * Math.sin(angle)];
    const side = [2.5 * Math.sin(angle), -2.5 * Math.cos(angle)];
    const d = `M${pairs[0]}C${pairs.slice(1).join(" ")}L${back}`;
    const head = [tip, [back[0] + side[0], back[1] + side[1]],
      [back[0] - side[0], back[1] - side[1]]].map((p) => p.join(",")).join(" ");
    return [shape("path", { class: `line ${role}`, d }),
      shape("polygon", { class: role, points: head })];
  }

  function draw() {
    const view = data.views[scope];
    const paint = painter(view);
    const svg = shape("svg", { viewBox: `-2 -2 ${view.width + 4} ${view.height + 4}` });
    const parts = new Map();
    for (const entry of view.shapes) {
      if (entry[0] === "a") {
        const [, source, target, role, points] = entry;
        for (const piece of arrow(points, role)) {
          piece.dataset.source = source;
          piece.dataset.target = target;
          svg.append(piece);
        }
      } else if (entry[0] === "b") {
        const [, name, role, x, y, width, height, rx] = entry;
        const box = view.boxes[name];
        const kind = /^(group|heading)/.test(role) ? role.replace(/\d/, "") : "box";
        const part = shape("g", { class: kind });
        part.dataset.name = name;
        const rect = shape("rect", { class: role, x, y, width, height, rx });
        if (paint && kind === "box") {
          const fill = paint.paint(box);
          rect.style.fill = fill === "none" ? "var(--page)" : fill;
          rect.style.stroke = "var(--muted)";
          part.classList.toggle("painted", fill !== "none");
        }
        part.append(rect);
        if (kind !== "group") makeUsable(part, name, box);
        parts.set(name, part);
        svg.append(part);
      } else {
        const [, owner, role, x, y, size, style, text] = entry;
        const classes = [style.includes("m") && "middle", style.includes("b") && "bold",
          style.includes("u") && "muted", role && `on-${role}`].filter(Boolean).join(" ");
        const line = shape("text", { class: classes, x, y, "font-size": size }, text);
        const part = parts.get(owner);
        if (part.classList.contains("painted")) line.style.fill = "#0b0f14";
        else if (paint && part.classList.contains("box")) line.style.fill = "var(--text)";
        part.append(line);
      }
    }
    stage.replaceChildren(svg);
    size();
    legend(view, paint);
    path();
    choose(chosen in view.boxes ? chosen : "", false);
  }

  function makeUsable(part, name, box) {
    part.setAttribute("tabindex", "0");
    part.setAttribute("role", "button");
    part.setAttribute("aria-label", [box.title, box.label].filter(Boolean).join(" "));
    part.classList.toggle("can-open", box.open !== undefined && box.open !== scope);
    part.addEventListener("click", () => {
      if (chosen === name && box.open !== undefined) go(box.open);
      else choose(name, false);
    });
    part.addEventListener("dblclick", () => box.open !== undefined && go(box.open));
    // A click gives focus, too, and chooses by itself.
    part.addEventListener("focus", () => {
      if (part.matches(":focus-visible")) choose(name, false);
    });
    part.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      if (box.open !== undefined) go(box.open);
    });
  }

  function size() {
    const view = data.views[scope], svg = stage.firstChild;
    const room = stage.clientWidth - 28;
    const scale = zoom || Math.min(1.35, room / (view.width + 4));
    svg.setAttribute("width", (view.width + 4) * scale);
    svg.setAttribute("height", (view.height + 4) * scale);
    return scale;
  }

  // ---- panel, path, legend -------------------------------------------------------------
  function choose(name, scroll) {
    chosen = name;
    for (const part of stage.querySelectorAll("g.chosen")) part.classList.remove("chosen");
    for (const piece of stage.querySelectorAll(".near")) piece.classList.remove("near");
    const box = data.views[scope].boxes[name];
    if (!box) return introduce();
    for (const part of stage.querySelectorAll("g"))
      if (part.dataset.name === name && !part.classList.contains("group")) {
        part.classList.add("chosen");
        if (scroll) part.scrollIntoView({ block: "center", inline: "center" });
      }
    for (const piece of stage.querySelectorAll("path, polygon"))
      if (piece.dataset.source === name || piece.dataset.target === name)
        piece.classList.add("near");
    panel.replaceChildren(element("h2", {}, box.title));
    if (box.label) panel.append(element("p", {}, box.label));
    if (box.open !== undefined && box.open !== scope) {
      const button = element("button", { id: "open" }, "Look inside");
      button.addEventListener("click", () => go(box.open));
      panel.append(button);
    }
    table(box.rows);
  }

  function table(rows) {
    const list = element("dl");
    for (const [key, value] of rows)
      if (value !== "") list.append(element("dt", {}, key), element("dd", {}, value));
    panel.append(list);
  }

  function introduce() {
    const view = data.views[scope];
    panel.replaceChildren(element("h2", {}, view.title));
    if (scope) return table(view.rows);
    for (const fact of data.facts) panel.append(element("p", {}, fact));
    for (const note of data.notes) panel.append(element("p", {}, `Note: ${note}`));
    panel.append(element("p", {},
      "Click a box to read about it, click again or press Enter to look inside. " +
      "Backspace goes up, / searches."));
  }

  function path() {
    const chain = [];
    for (let at = scope; at !== null; at = data.views[at].parent) chain.unshift(at);
    const nav = byId("path");
    nav.replaceChildren();
    chain.forEach((at, number) => {
      if (number) nav.append(element("span", { "aria-hidden": "true" }, "›"));
      const button = element("button", {}, data.views[at].label);
      if (at === scope) button.setAttribute("aria-current", "page");
      button.addEventListener("click", () => go(at));
      nav.append(button);
    });
  }

  function legend(view, paint) {
    const entries = [];
    const sample = (attributes, words) => {
      const entry = element("span");
      const svg = shape("svg", { width: 16, height: 11 });
      svg.append(shape("rect", { x: 1, y: 1, width: 14, height: 9, rx: 2, ...attributes }));
      entry.append(svg, words);
      entries.push(entry);
    };
    if (paint) for (const [words, fill] of paint.legend) sample({ style: `fill:${fill}` }, words);
    const roles = new Set(view.shapes.map((entry) => entry[entry[0] === "a" ? 3 : 2]));
    for (const [role, meaning] of Object.entries(data.meanings))
      if (roles.has(role) && (!paint || role === "skip")) sample({ class: role }, meaning);
    byId("legend").replaceChildren(...entries);
  }

  // ---- moving about --------------------------------------------------------------------
  function go(to, box = "") {
    const address = `#${encodeURIComponent(to)}${box ? `!${encodeURIComponent(box)}` : ""}`;
    if (address !== location.hash) {
      try {
        history.pushState(null, "", address);
      } catch {
        location.hash = address; // a frame may forbid the one and allow the other
      }
    }
    show(to, box);
  }

  function show(to, box) {
    if (!(to in data.views)) return;
    const before = scope;
    scope = to;
    zoom = 0;
    // Going up, the module that one comes from is chosen.
    chosen = box || (data.views[before].parent === to ? before : "");
    draw();
    stage.scrollTo(0, 0);
    if (chosen) choose(chosen, true);
  }

  function fromAddress() {
    let [to, box] = location.hash.slice(1).split("!").map((part) => {
      try { return decodeURIComponent(part); } catch { return ""; }
    });
    if (!(to in data.views)) [to, box] = ["", ""];
    show(to, box || "");
  }

  // ---- search --------------------------------------------------------------------------
  const index = [];
  for (const [at, view] of Object.entries(data.views))
    for (const [name, box] of Object.entries(view.boxes))
      // A tensor that enters or leaves a module is a box of its own elsewhere.
      if (!box.inner_end) index.push({ at, name, box });
  const words = (entry) => `${entry.name} ${entry.box.title} ${entry.box.label}`.toLowerCase();

  function look() {
    const query = search.value.trim().toLowerCase().split(/[\s./]+/).filter(Boolean);
    found.replaceChildren();
    const seen = new Set();
    // The view that shows a box most closely is the deepest one: later views first.
    const hits = query.length ? index.slice().reverse().filter((entry) => {
      const isNew = !seen.has(entry.name) && query.every((word) => words(entry).includes(word));
      if (isNew) seen.add(entry.name);
      return isNew;
    }).reverse().slice(0, 50) : [];
    for (const entry of hits) {
      const line = element("li", { role: "option", "aria-selected": "false" }, entry.box.title);
      line.append(element("br"), element("small", {}, entry.name));
      line.addEventListener("click", () => take(entry));
      found.append(line);
    }
    if (query.length && !hits.length) found.append(element("li", {}, "Nothing found"));
    mark(0);
    found.hidden = !query.length;
    found.entries_ = hits;
  }

  function take(entry) {
    found.hidden = true;
    search.blur();
    go(entry.at, entry.name);
  }

  function mark(number) {
    const lines = [...found.children];
    lines.forEach((line, n) => line.setAttribute("aria-selected", String(n === number)));
    if (lines[number]) lines[number].scrollIntoView({ block: "nearest" });
    found.dataset.at = number;
  }

  search.addEventListener("input", look);
  search.addEventListener("keydown", (event) => {
    const at = Number(found.dataset.at || 0), hits = found.entries_ || [];
    if (event.key === "ArrowDown") mark(Math.min(at + 1, hits.length - 1));
    else if (event.key === "ArrowUp") mark(Math.max(at - 1, 0));
    else if (event.key === "Enter" && hits[at]) take(hits[at]);
    else if (event.key === "Escape") { search.value = ""; look(); search.blur(); }
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select")) return;
    const parent = data.views[scope].parent;
    if (event.key === "/") search.focus();
    else if ((event.key === "Backspace" || event.key === "Escape") && parent !== null) go(parent);
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    if (!found.contains(event.target) && event.target !== search) found.hidden = true;
  });
  colour.addEventListener("change", draw);
  byId("larger").addEventListener("click", () => { zoom = size() * 1.25; size(); });
  byId("smaller").addEventListener("click", () => { zoom = size() / 1.25; size(); });
  byId("fit").addEventListener("click", () => {
    const view = data.views[scope];
    zoom = Math.min((stage.clientWidth - 28) / view.width, (stage.clientHeight - 28) / view.height);
    size();
  });
  addEventListener("popstate", fromAddress);
  addEventListener("hashchange", fromAddress);
  addEventListener("resize", size);
  fromAddress();
})();

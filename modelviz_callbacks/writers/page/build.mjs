/**
 * Bundles src/ into ../assets: page.js, the interactive page's script, and rows.js, with which
 * pictures are laid out; each with the licences of the libraries in it.
 *
 * The first line holds a hash of all that the file is made of, so that a test can tell whether it
 * is the build of its sources: see tests/writers/test_page_build.py, which computes the same.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const DAGRE = ["@dagrejs/dagre", "@dagrejs/graphlib"];
const D3 = [
  "d3-zoom", "d3-selection", "d3-transition", "d3-drag", "d3-interpolate",
  "d3-color", "d3-ease", "d3-timer", "d3-dispatch",
];
const BUILT = [
  { source: "main.js", asset: "page.js", libraries: [...DAGRE, ...D3] },
  { source: "rows.js", asset: "rows.js", libraries: DAGRE },
];

function hashOfSources() {
  const hash = createHash("sha256");
  const names = readdirSync(join(here, "src")).filter((name) => name.endsWith(".js")).sort();
  for (const name of ["build.mjs", "package.json", "package-lock.json", ...names.map((one) => `src/${one}`)]) {
    hash.update(`${name}\n`);
    hash.update(readFileSync(join(here, name)));
  }
  return hash.digest("hex");
}

/** @param {string[]} libraries */
function licences(libraries) {
  return libraries.map((name) => {
    const home = join(here, "node_modules", name);
    const { version } = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
    return `${name} ${version}\n\n${readFileSync(join(home, "LICENSE"), "utf8").trim()}`;
  }).join("\n\n\n");
}

for (const { source, asset, libraries } of BUILT) {
  const made = await build({
    entryPoints: [join(here, "src", source)],
    bundle: true,
    minify: true,
    format: "iife",
    target: ["es2022"],
    charset: "utf8",
    legalComments: "none",
    write: false,
  });
  const code = made.outputFiles[0].text.replaceAll("</", "<\\/");
  const notice = licences(libraries).replaceAll("*/", "* /").replaceAll("</", "< /");
  writeFileSync(
    join(here, "../assets", asset),
    `/* The build of writers/page, sources sha256 ${hashOfSources()} */\n/* Bundled libraries and their licences:\n\n${notice}\n*/\n${code}`,
  );
  console.log(`${asset}: ${code.length} characters of code`);
}

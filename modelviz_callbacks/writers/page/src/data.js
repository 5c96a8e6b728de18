/**
 * The page's data: base64 of gzipped JSON in a script element that never runs.
 * What its rows mean is said in `writers/page_data.py`, which writes them, and in `graph.js`.
 */

/**
 * @param {string} text base64 of a gzip stream
 * @returns {Promise<any>} the JSON in it
 */
export async function decode(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// A scores file is read here, in the browser. Only the K numbers, their metric and their experts' hash are sent on.

/** Above this a file is no scores file; scores.json of 4,096 experts is under it. */
export const MAX_FILE = 4 * 1024 * 1024;
const MAX_PICKLE = 512 * 1024; // set_limits.py: MAX_BODY

export class ScoresError extends Error {}

/**
 * Read a scores file.
 * @param {string} text - the JSON that `nds-client score` writes.
 * @param {{id: string, hash: string, num_experts: number}} set - the experts that it must be of.
 * @returns {{clusters: number[], z: number[], metric: string, images: number|null}}
 * @throws {ScoresError} with a sentence for the reader.
 */
export function readScores(text, set) {
  const document = parse(text);
  const { clusters, z, expert_set: of } = document;
  if (!Array.isArray(clusters) || !Array.isArray(z)) {
    throw new ScoresError('This is not a scores file: it has no lists "clusters" and "z". Choose the scores.json that nds-client score wrote.');
  }
  if (typeof of !== "string") {
    throw new ScoresError('The file does not say which experts it is of ("expert_set" is missing). Choose the scores.json as nds-client score wrote it.');
  }
  if (of !== set.hash && of !== set.id) {
    throw new ScoresError(`These scores are of other experts (${of.slice(0, 12)}…) than those served now (${set.hash.slice(0, 12)}…). Score your images again with the command above.`);
  }
  if (typeof document.metric !== "string" || !document.metric) {
    throw new ScoresError('The file does not say which metric its scores are of ("metric" is missing). Choose the scores.json as nds-client score wrote it.');
  }
  checkNumbers(clusters, z, set.num_experts);
  const images = Number.isInteger(document.images) ? document.images : null;
  return { clusters, z, metric: document.metric, images };
}

function parse(text) {
  if (!text.trim()) throw new ScoresError("There is nothing to read: choose a file or paste its content.");
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new ScoresError("This is not JSON. Choose the scores.json that nds-client score wrote, or paste all of it.");
  }
  if (document === null || typeof document !== "object" || Array.isArray(document)) {
    throw new ScoresError("This is not a scores file: expected a JSON object, as nds-client score writes it.");
  }
  return document;
}

function checkNumbers(clusters, z, wanted) {
  if (clusters.length !== wanted || z.length !== wanted) {
    throw new ScoresError(`Expected ${wanted} scores, one for each cluster; the file has ${z.length}.`);
  }
  const odd = clusters.findIndex((cluster, place) => cluster !== place);
  if (odd >= 0) throw new ScoresError(`Expected the clusters 0 to ${wanted - 1} in this order; the file has ${clusters[odd]} in place ${odd + 1}.`);
  const bad = z.findIndex((value) => typeof value !== "number" || !Number.isFinite(value));
  if (bad >= 0) throw new ScoresError(`The score of cluster ${bad} is not a finite number.`);
}

/**
 * Read a chosen file: JSON here, a z.pickle by the server, which reads it as data.
 * @param {File} file
 * @param {Object} set - as for {@link readScores}.
 * @param {(set: string, data: ArrayBuffer) => Promise<Object>} convert - turns a z.pickle into scores.
 */
export async function readFile(file, set, convert) {
  if (file.size > MAX_FILE) throw new ScoresError(`${file.name} is too large to be a scores file.`);
  const bytes = await file.arrayBuffer().catch(() => {
    throw new ScoresError(`${file.name} cannot be read, or changed since it was chosen: choose it again.`);
  });
  // Pickles of protocol 2 and later begin with 0x80, which no JSON does; dicts of protocol 0 with "(".
  if (![0x80, 0x28].includes(new Uint8Array(bytes)[0])) return readScores(new TextDecoder().decode(bytes), set);
  if (file.size > MAX_PICKLE) throw new ScoresError(`${file.name} is larger than the 512 KiB that a z.pickle may have.`);
  const { clusters, z, metric } = await convert(set.id, bytes);
  return { clusters, z, metric, images: null };
}

// The search that is being put together; it survives a reload of the page, not the tab.

const KEY = "nds.draft";

/** Settings as the paper has them. */
export const DEFAULTS = { selector: "nds", budget: null, temperature: 0.1, normalisation: "minmax", seed: 0, title: "" };

// `set` is the experts' hash: scores stay good while it does, even where links or licences are published anew.
const EMPTY = { set: null, sources: null, scores: null, settings: DEFAULTS };

/** The draft for the experts of a hash; scores of other experts do not count, and `stale` says that there were some. */
function draftFor(hash) {
  const found = load();
  if (found.set === hash || found.set === null) return { ...found, set: hash, stale: false };
  return { ...found, set: hash, sources: null, scores: null, stale: found.scores !== null };
}

function load() {
  try {
    const found = JSON.parse(sessionStorage.getItem(KEY)) ?? EMPTY;
    return { ...EMPTY, ...found, settings: { ...DEFAULTS, ...found.settings } };
  } catch {
    return EMPTY;
  }
}

let held = null;

/** Keep a changed draft. */
export function keep(draft) {
  held = draft;
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ ...draft, stale: undefined }));
  } catch {
    // Without storage the draft lasts as long as the page.
  }
  return draft;
}

/** The draft of this page load where there is one, else the kept one. */
export function current(hash) {
  return held?.set === hash ? held : keep(draftFor(hash));
}

/** Make the draft everything of an earlier search by the same experts, to change and search again; one without scores leaves them. */
export function fromSearch(search, hash) {
  const { scores, sources, selector, budget, temperature, normalisation, seed, title } = search.request;
  const settings = { selector, budget: budget ?? search.result.budget, temperature, normalisation, seed, title };
  keep({ ...EMPTY, set: hash, sources, scores: scores ? { ...scores, images: null } : current(hash).scores, settings });
}

/** The body of a request from a draft; scores leave only where the selector looks at them. */
export function requestOf(draft) {
  const { selector, budget, temperature, normalisation, seed, title } = draft.settings;
  const scores = selector === "uniform" ? null : sentScores(draft);
  return { expert_set: draft.set, scores, sources: draft.sources, budget, temperature, normalisation, selector, seed, title };
}

/** The scores as they are sent: as they came, or with `digits` after the point; null without. */
export function sentScores({ scores }) {
  if (scores === null) return null;
  const { clusters, z, metric, digits = null } = scores;
  return { clusters, z: digits === null ? z : z.map((value) => Number(value.toFixed(digits))), metric };
}

// What the server serves now: sources and the current set of experts.

import * as api from "./api.js";

/** The sources, the current expert set with its files, and all sets. */
export async function catalogue() {
  const [{ expert_set: id, sources }, { expert_sets: sets }] = await Promise.all([api.sources(), api.expertSets()]);
  const set = await api.expertSet(id);
  return { set, sets, sources };
}

/** Sources that a draft chooses; null is all of them. */
export const chosen = (sources, names) => sources.filter(({ name }) => names === null || names.includes(name));

/** Images of each cluster in some sources, length K. */
export function clusterImages(sources, count) {
  const images = new Array(count).fill(0);
  for (const { cluster_images: found } of sources) {
    for (const [cluster, n] of Object.entries(found)) images[Number(cluster)] += n;
  }
  return images;
}

/** Short name of the source that most images of each cluster come from, or "". */
export function mainSources(sources, count) {
  const names = new Array(count).fill("");
  const short = shortNames(sources.map(({ name }) => name));
  const most = new Array(count).fill(0);
  for (const { name, cluster_images: found } of sources) {
    for (const [cluster, n] of Object.entries(found)) {
      if (n > most[cluster]) [most[cluster], names[cluster]] = [n, short.get(name)];
    }
  }
  return names;
}

/**
 * Names for small places: without the beginning and end that all share, "nds_sample_street_train" is "street".
 * @returns {Map<string, string>}
 */
export function shortNames(names) {
  const parts = names.map((name) => name.split(/(?<=[_\-/])|(?=[_\-/])/));
  const least = Math.min(...parts.map((part) => part.length));
  const alike = (at) => names.length > 1 && parts.every((part) => at(part) === at(parts[0]));
  let [head, tail] = [0, 0];
  while (head < least - 1 && alike((part) => part[head])) head += 1;
  while (tail < least - head - 1 && alike((part) => part[part.length - 1 - tail])) tail += 1;
  const cut = (part) => part.slice(head, part.length - tail).join("").replace(/^[_\-/]+|[_\-/]+$/g, "");
  return new Map(names.map((name, i) => [name, cut(parts[i]) || name]));
}

/** Clusters ordered for a chart: the best score first, else by number. */
export function order(z, count) {
  const all = Array.from({ length: count }, (_, k) => k);
  return z === null ? all : all.sort((a, b) => z[b] - z[a] || a - b);
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);

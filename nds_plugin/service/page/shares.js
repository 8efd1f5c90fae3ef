// Shares beside those of a uniform draw, by source and by cluster.

import { order, shortNames, sum } from "./catalogue.js";
import { barChart, legend } from "./charts.js";
import { percent } from "./format.js";

export const shareLegend = () => legend(["share", "drawn"], ["uniform", "in a uniform draw"]);

const COLUMN = { title: "share of the images", kind: "share", paired: true, text: percent };

/**
 * A chart of shares by source.
 * @param {string} title
 * @param {Object[]} sources - the server's sources, for the uniform draw; may lack some.
 */
export function sourceChart(title, sources) {
  const chart = barChart({ title, rowTitle: "Source" });
  const short = shortNames(sources.map(({ name }) => name));
  const update = (shares) => {
    const names = Object.keys(shares).sort((a, b) => shares[b] - shares[a] || a.localeCompare(b));
    const images = names.map((name) => sources.find((source) => source.name === name)?.images ?? 0);
    const reference = images.every((n) => n > 0) ? images.map((n) => n / sum(images)) : null;
    chart.update({
      labels: names.map((name) => ({ main: short.get(name) ?? name, full: name })),
      columns: [{ ...COLUMN, values: names.map((name) => shares[name]), reference }],
      summary: `Most images, ${percent(shares[names[0]])}, are of ${names[0]}.`,
    });
  };
  return { element: chart.element, update };
}

/** A chart of a result's shares by cluster, the best expert's cluster first. */
export function clusterShares(title, result, names) {
  const chart = barChart({ title, rowTitle: "Cluster" });
  const { share_by_cluster: drawn, cluster_images: images } = result;
  const places = order(result.z, images.length).filter((k) => images[k] > 0);
  const uniform = images.map((n) => n / sum(images));
  const most = places.reduce((best, k) => (drawn[k] > drawn[best] ? k : best), places[0]);
  chart.update({
    labels: places.map((k) => ({ main: String(k), sub: names[k] })),
    columns: [{ ...COLUMN, values: places.map((k) => drawn[k]), reference: places.map((k) => uniform[k]) }],
    summary: `Most images, ${percent(drawn[most])}, are of cluster ${most}; a uniform draw would have ${percent(uniform[most])} of it.`,
  });
  return chart.element;
}

// Random images of the heaviest clusters: at their providers, shown only where that is allowed and wanted.

import * as api from "./api.js";
import { shortNames } from "./catalogue.js";
import { fill, h, outside } from "./dom.js";
import { number, percent } from "./format.js";
import { loading } from "./parts.js";

const WANTED = "nds.thumbnails";

export function mosaic(search, names) {
  const place = h("div", {});
  const short = shortNames(Object.keys(search.result.share_by_source));
  loading(place, () => api.mosaic(search.id), ({ clusters }) => whole(clusters, names, short));
  return h("section", { "aria-labelledby": "mosaic" }, h("h2", { id: "mosaic" }, "Random images of the heaviest clusters"), place);
}

function whole(clusters, names, short) {
  const hosts = new Set(clusters.flatMap(({ images }) => images).filter(({ thumbnail }) => thumbnail).map(({ thumbnail }) => new URL(thumbnail).host));
  const place = h("div", { class: "mosaic" });
  const draw = () => fill(place, clusters.map((cluster) => oneCluster(cluster, { names, short }, hosts.size > 0 && wanted())));
  draw();
  return [hosts.size ? consent([...hosts].sort(), draw) : h("p", { class: "hint" }, "Links to the originals. Thumbnails are off on this server, or the licences do not allow them."), place];
}

function consent(hosts, draw) {
  const shown = hosts.length > 3 ? `${hosts.slice(0, 3).join(", ")} and ${hosts.length - 3} others` : hosts.join(", ");
  const input = h("input", { type: "checkbox", id: "thumbnails", checked: wanted(), "aria-describedby": "thumbnails-hint" });
  input.addEventListener("change", () => {
    want(input.checked);
    draw();
  });
  return h("div", { class: "choice" }, input, h("div", {},
    h("label", { for: "thumbnails" }, "Show thumbnails"),
    h("p", { class: "hint", id: "thumbnails-hint" }, `Your browser then loads them from ${shown}, which sees your address. This server keeps no image.`)));
}

function oneCluster({ cluster, z, w, images }, { names, short }, pictures) {
  const scores = [z === null ? null : `z ${number(z)}`, `w ${percent(w)}`].filter(Boolean).join(", ");
  return h("article", {},
    h("h3", {}, `Cluster ${cluster}`, names[cluster] ? h("span", { class: "quiet" }, ` mostly ${names[cluster]}`) : null),
    h("p", { class: "hint" }, scores),
    h("ul", { class: pictures ? "tiles" : "links" }, images.map((image) => h("li", {}, tile(image, short, pictures)))));
}

function tile({ source, image_id: id, url, thumbnail }, short, pictures) {
  const name = `${short.get(source) ?? source} ${id}`;
  const link = url ? outside(url, name) : h("span", { class: "quiet" }, `${name}, no link`);
  if (!pictures || !thumbnail) return link;
  const picture = h("img", { src: thumbnail, alt: `Image ${id} of ${source}`, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer", width: 96, height: 96 });
  picture.addEventListener("error", () => picture.replaceWith(h("span", { class: "gone" }, `${id}: not there`)));
  link.replaceChildren(picture);
  return link;
}

let held = false;

function wanted() {
  try {
    return localStorage.getItem(WANTED) === "yes";
  } catch {
    return held;
  }
}

function want(on) {
  held = on;
  try {
    localStorage.setItem(WANTED, on ? "yes" : "no");
  } catch {
    // Kept for this page only.
  }
}

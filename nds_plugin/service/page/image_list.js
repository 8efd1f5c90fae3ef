// The drawn images, a page at a time.

import * as api from "./api.js";
import { announce, fill, h, outside } from "./dom.js";
import { count } from "./format.js";
import { errorNotice } from "./parts.js";

export function imageList(search) {
  const body = h("tbody");
  const foot = h("p", { class: "row" });
  const table = h("table", {},
    h("caption", { class: "unseen" }, "Drawn images"),
    h("thead", {}, h("tr", {}, ["Image", "Source", "Cluster", "Licence"].map((head, i) => h("th", { scope: "col", class: i === 2 ? "number" : null }, head)))),
    body);
  const details = h("details", {}, h("summary", {}, `Browse the ${count(search.result.images)} images`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Drawn images" }, table), foot);

  async function more(cursor) {
    try {
      const { images, next } = await api.images(search.id, cursor);
      body.append(...images.map(row));
      fill(foot, h("span", { class: "quiet" }, `${count(body.rows.length)} of ${count(search.result.images)}`),
        next ? h("button", { type: "button", class: "small", onclick: () => more(next) }, "Show 50 more") : null);
      if (cursor) {
        announce(`${count(body.rows.length)} images are shown.`);
        foot.querySelector("button")?.focus();
      }
    } catch (error) {
      fill(foot, errorNotice(error, h("button", { type: "button", class: "small", onclick: () => more(cursor) }, "Try again")));
    }
  }

  details.addEventListener("toggle", () => {
    if (details.open && body.rows.length === 0) more(null);
  });
  return h("section", { "aria-labelledby": "images" }, h("h2", { id: "images" }, "All images"), details);
}

function row({ source, image_id: id, cluster, url, license }) {
  return h("tr", {},
    h("th", { scope: "row" }, url ? outside(url, id) : [id, h("span", { class: "quiet" }, " no link")]),
    h("td", {}, source), h("td", { class: "number" }, count(cluster)), h("td", {}, license || h("span", { class: "quiet" }, "not stated")));
}

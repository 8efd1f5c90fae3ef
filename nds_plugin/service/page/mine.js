// Earlier searches of this browser's token, and the token itself.

import * as api from "./api.js";
import { announce, fill, h } from "./dom.js";
import { count, percent, plural, time } from "./format.js";
import { confirmed, copyButton, deleted, errorNotice, field, loading, title } from "./parts.js";

export async function mineView() {
  const list = h("div", {});
  const redraw = () => loading(list, first, (found) => table(found, redraw), stranger);
  await redraw();
  return [
    title("My searches"),
    h("section", { class: "flush" }, list),
    h("section", { "aria-labelledby": "token" }, h("h2", { id: "token" }, "The token"), tokenPart(redraw)),
  ];
}

const first = async () => (api.token() ? api.ownSearches(null) : { searches: [], next: null });

/** The server may have been set up anew since the token was made. */
function stranger(error) {
  return error.status === 401 ? "The server does not know this browser's token: its searches were deleted, or are on another server. Forget it below." : null;
}

function table({ searches, next }, redraw) {
  if (searches.length === 0) {
    return h("p", { class: "empty" }, api.token() ? "No searches under this token." : "No searches in this browser yet.", " ",
      h("a", { href: "#/search/sources" }, "Start one"));
  }
  const note = h("div");
  const body = h("tbody", {}, searches.map((search) => row(search, redraw, note)));
  const foot = h("p", { class: "row" });
  const more = (cursor) => fill(foot, cursor ? h("button", { type: "button", class: "small", onclick: () => load(cursor) }, "Show more") : null);
  async function load(cursor) {
    try {
      const page = await api.ownSearches(cursor);
      body.append(...page.searches.map((search) => row(search, redraw, note)));
      more(page.next);
      announce(`${plural(body.rows.length, "search", "searches")} shown.`);
    } catch (error) {
      fill(foot, errorNotice(error));
    }
  }
  more(next);
  return [note, h("table", { class: "stacked" },
    h("caption", { class: "unseen" }, "Searches, the newest first"),
    h("thead", {}, h("tr", {},
      ["Search", "Made", "Images", "Settings", "Most from"].map((head) => h("th", { scope: "col", class: head === "Images" ? "number" : null }, head)),
      h("td", {}, h("span", { class: "unseen" }, "Delete")))),
    body), foot];
}

function row(search, redraw, note) {
  const { id, created, request, result } = search;
  const name = request.title || id;
  const [source, share] = Object.entries(result.share_by_source).sort((a, b) => b[1] - a[1])[0];
  const settings = request.selector === "uniform" ? "uniform" : `NDS, T = ${request.temperature}`;
  const remove = async () => {
    if (!(await deleted(id, `Delete ${name}?`, note))) return;
    await redraw();
    document.querySelector("h1")?.focus();
  };
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/searches/${id}` }, name)),
    h("td", { "data-head": "Made" }, time(created)),
    h("td", { class: "number", "data-head": "Images" }, count(result.images)),
    h("td", { "data-head": "Settings" }, `${settings}, seed ${request.seed}`),
    h("td", { class: "wide", "data-head": "Most from" }, `${source}, ${percent(share)}`),
    h("td", { class: "tick" }, h("button", { type: "button", class: "plain", "aria-label": `Delete ${name}`, onclick: remove }, "Delete")));
}

function tokenPart(redraw) {
  const place = h("div", {});
  const draw = () => fill(place, api.token() ? having(place, draw, redraw) : none(), other(draw, redraw));
  draw();
  return place;
}

function having(place, draw, redraw) {
  const forget = async () => {
    const sure = await confirmed("Forget the token?", "Without it nobody can read or delete these searches any more. Copy it first if you may want to.", "Forget");
    if (!sure) return;
    api.keepToken(null);
    announce("The token is forgotten.");
    draw();
    redraw();
  };
  return [
    h("p", {}, "Your searches belong to a random token, made at your first search and kept in this browser (its localStorage). "
      + "There is no account: whoever has the token can read and delete the searches. The server keeps only a hash of it."),
    h("p", { class: "row" },
      copyButton(() => api.token(), "Copy the token", "Copy the token"),
      h("button", { type: "button", class: "plain", onclick: forget }, "Forget it")),
  ];
}

const none = () => h("p", {}, "At your first search the server gives out a random token. It is kept in this browser (its localStorage) and "
  + "makes the searches yours: there is no account, and the server keeps only a hash of it.");

function other(draw, redraw) {
  const input = h("input", { type: "password", autocomplete: "off", id: "other-token", spellcheck: "false" });
  const made = field("Token", input, { beside: h("button", { type: "submit", class: "small" }, "Use it") });
  const use = async (event) => {
    event.preventDefault();
    const value = input.value.trim();
    if (!/^[\w-]{20,200}$/.test(value)) {
      made.fail("A token is a word of 20 or more letters, digits, _ and -.");
      return;
    }
    const before = api.token();
    api.keepToken(value);
    try {
      await api.ownSearches(null);
    } catch (error) {
      api.keepToken(before);
      made.fail(error.status === 401 ? "The server does not know this token." : error.message);
      return;
    }
    announce("The token is in use.");
    draw();
    redraw();
  };
  return h("details", {}, h("summary", {}, "Use a token of another browser or of nds-client"), h("form", { novalidate: true, onsubmit: use }, made.element));
}

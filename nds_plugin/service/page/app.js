// The page: which view the address names, and what happens when it changes.

import * as api from "./api.js";
import { fill, h } from "./dom.js";
import { errorNotice, title } from "./parts.js";
import { homeView } from "./home.js";
import { mineView } from "./mine.js";
import { resultView } from "./result.js";
import { selectionView } from "./selection.js";
import { scoresView } from "./scores_step.js";
import { sourcesView } from "./sources_step.js";

// Address -> [page of the navigation, title, view].
const VIEWS = [
  [/^#?\/?$/, "home", "Sources", homeView],
  [/^#\/search\/sources$/, "search", "Choose sources", sourcesView],
  [/^#\/search\/scores$/, "search", "Score your images", scoresView],
  [/^#\/search\/selection$/, "search", "Set the selection", selectionView],
  [/^#\/searches$/, "mine", "My searches", mineView],
  [/^#\/searches\/([\w-]+)$/, "search", "Result", resultView],
];

const main = document.getElementById("main");
let visit = 0;

async function show({ first = false } = {}) {
  const hash = location.hash;
  if (hash && !hash.startsWith("#/")) return;
  const [pattern, page, name, view] = VIEWS.find(([known]) => known.test(hash)) ?? [null, "", "Not found", notFound];
  visit += 1;
  const mine = visit;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name} · Neural Data Server`;
  main.setAttribute("aria-busy", "true");
  let content;
  try {
    content = await view(...(pattern?.exec(hash)?.slice(1) ?? []));
  } catch (error) {
    content = failed(name, error);
  }
  if (mine !== visit) return;  // another view was asked for meanwhile
  fill(main, content);
  main.removeAttribute("aria-busy");
  if (first) return;
  scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function failed(name, error) {
  if (!(error instanceof api.Problem)) console.error(error);
  if (error.status === 503 && !error.members.seconds) return [title(name), errorNotice(error)];
  const again = h("button", { type: "button", class: "small", onclick: () => show() }, "Try again");
  return [title(error.status === 404 ? "Not here" : name), errorNotice(error, again)];
}

const notFound = () => [title("Not found"), h("p", {}, "There is no such page. ", h("a", { href: "#/" }, "To the sources"))];

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => show());
show({ first: true });
api.health().then(({ version }) => {
  document.getElementById("version").textContent = `· version ${version}`;
}, () => {});

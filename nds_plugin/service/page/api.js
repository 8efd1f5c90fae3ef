// Calls of the server's own API, and the token that searches belong to.

import { sentence } from "./format.js";

const API = new URL("api/v1/", document.baseURI);
const TOKEN = "nds.token";

/** The server's address, for commands. */
export const SERVER = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** What went wrong, as one sentence in `message`; `status` 0 means that nobody answered. */
export class Problem extends Error {
  constructor(status, detail, members = {}) {
    super(sentence(detail));
    this.status = status;
    this.members = members;
  }

  /** The field of the request that is wrong, or null. */
  get field() {
    const named = this.members.errors?.[0]?.field?.split(".").find((part) => !["body", "query"].includes(part));
    if (named) return named;
    const first = this.message.toLowerCase().split(" ")[0];
    return ["budget", "temperature", "seed", "title"].includes(first) ? first : null;
  }
}

async function problemOf(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy in front of the server may answer with a page of its own.
  }
  const seconds = Number(response.headers.get("retry-after")) || 0;
  return new Problem(response.status, body.detail || `The server answered ${response.status}`, { ...body, seconds });
}

async function send(path, { method = "GET", json, body, headers = {}, signal, own = false } = {}) {
  const all = { Accept: "application/json", ...headers };
  if (json !== undefined) all["Content-Type"] = "application/json";
  if (own && token()) all.Authorization = `Bearer ${token()}`;
  let response;
  try {
    const content = json === undefined ? body : JSON.stringify(json);
    response = await fetch(new URL(path, API), { method, headers: all, body: content, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer; check the connection and try again");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

const read = async (path, options) => (await send(path, options)).json();

export const health = () => read("health");
export const sources = () => read("sources");
export const expertSets = () => read("expert-sets");
export const expertSet = (id) => read(`expert-sets/${id}`);
export const expertFile = (set, name) => new URL(`expert-sets/${set}/files/${encodeURIComponent(name)}`, API).href;
export const preview = (request, signal) => read("preview", { method: "POST", json: request, signal });

/** Scores of a z.pickle of the paper authors' client. */
export function fromFastAdapt(set, data) {
  const headers = { "Content-Type": "application/octet-stream" };
  return read(`scores/fastadapt?expert_set=${set}`, { method: "POST", body: data, headers });
}

/** Create a search. `key` is the same for repeats of one request, so that nothing is created twice. */
export async function createSearch(request, key) {
  // The token is kept before the search is sent: an answer that gets lost loses nothing.
  if (!token()) keepToken((await read("tokens", { method: "POST" })).token);
  return read("searches", { method: "POST", json: request, headers: { "Idempotency-Key": key }, own: true });
}

export const search = (id) => read(`searches/${encodeURIComponent(id)}`, { own: true });
export const ownSearches = (cursor) => read(`searches${cursor ? `?cursor=${cursor}` : ""}`, { own: true });
export const deleteSearch = (id) => send(`searches/${id}`, { method: "DELETE", own: true });
export const images = (id, cursor) => read(`searches/${id}/images?limit=50${cursor ? `&cursor=${cursor}` : ""}`, { own: true });
export const mosaic = (id) => read(`searches/${id}/mosaic`, { own: true });
export const config = async (id) => (await send(`searches/${id}/config`, { own: true })).text();

/**
 * Fetch a manifest whole.
 * @param {(bytes: number) => void} progress - called with the bytes so far.
 * @returns {Promise<Blob>}
 */
export async function manifest(id, format, progress) {
  const response = await send(`searches/${id}/manifest?format=${format}`, { own: true });
  const pieces = [];
  let size = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
    progress(size);
  }
  return new Blob(pieces, { type: response.headers.get("content-type") });
}

let held = null;  // where the browser keeps nothing for this page

export function token() {
  try {
    return localStorage.getItem(TOKEN) ?? held;
  } catch {
    return held;
  }
}

/** Keep a token in this browser; null forgets it. */
export function keepToken(value) {
  held = value;
  try {
    if (value === null) localStorage.removeItem(TOKEN);
    else localStorage.setItem(TOKEN, value);
  } catch {
    // Private windows may refuse: it then lasts as long as the page.
  }
}

// Manifests, the config for Detectron2, and the command that fetches the images.

import * as api from "./api.js";
import { fill, h } from "./dom.js";
import { bytes } from "./format.js";
import { copyBlock, errorNotice, loading, save } from "./parts.js";

// Format of the API -> [button, ending, what it is for].
const FORMATS = {
  csv: ["CSV", "csv", "One line for each image with its link, licence and checksum; what nds-client downloads from."],
  parquet: ["Parquet", "parquet", "The selection for Detectron2: NDS.SELECTION in the config below."],
  json: ["JSON", "json", "The same as the CSV, for scripts."],
  coco: ["COCO ids", "coco.json", "Image ids of each source, to cut COCO annotation files down."],
};

export function downloads(search) {
  const config = h("div", {});
  loading(config, () => api.config(search.id), (text) => [
    copyBlock(text, "the config"),
    h("p", { class: "row" }, h("button", { type: "button", class: "small", onclick: () => save(text, `nds-${search.id}.yaml`) }, "Download the config")),
  ]);
  return h("section", { "aria-labelledby": "downloads" },
    h("h2", { id: "downloads" }, "Take it home"),
    h("div", { class: "halves inner" },
      h("div", {},
        h("h3", {}, "1. The list of images"),
        h("ul", { class: "downloads" }, Object.keys(FORMATS).map((format) => download(search.id, format)))),
      h("div", {},
        h("h3", {}, "2. The images, from their providers"),
        copyBlock(`nds-client download \\
    --manifest nds-${search.id}.csv \\
    --output images`, "the download command"),
        h("p", { class: "hint" }, "Parallel and resumable; checks sizes and checksums where the provider publishes them. It goes by the CSV, and needs no token."))),
    h("h3", {}, "3. Training in Detectron2"), config);
}

function download(id, format) {
  const [name, ending, purpose] = FORMATS[format];
  const status = h("span", { class: "status", role: "status" });
  const trouble = h("div");
  const button = h("button", { type: "button", class: "small", id: `download-${format}`, "aria-describedby": `purpose-${format}` }, name);
  button.addEventListener("click", async () => {
    button.disabled = true;
    fill(trouble);
    try {
      const blob = await api.manifest(id, format, (size) => { status.textContent = bytes(size); });
      save(blob, `nds-${id}.${ending}`);
      status.textContent = `saved, ${bytes(blob.size)}`;
    } catch (error) {
      status.textContent = "";
      // A stream that breaks off is no answer of the server.
      fill(trouble, errorNotice(error instanceof api.Problem ? error : new api.Problem(0, "The download broke off; try again")));
    }
    button.disabled = false;
    button.focus();
  });
  return h("li", {}, button, h("p", { id: `purpose-${format}` }, purpose, " ", status), trouble);
}

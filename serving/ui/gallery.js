// The canvas, the facts about the picture on it, and the session's other pictures.

import { $, make, warningItems } from "./elements.js";
import { bufferOf, parametersOf } from "./png.js";
import { bodyOf, sizeText } from "./settings.js";

/** The result of a drawing's job. body: as it was sent; by default as the picture's file has it, then without input pictures. */
export function resultOf(job, body = null) {
  const { data: [picture], output_format: format, size, seconds, cut_tokens: cut, warnings = [] } = job.result;
  const parameters = parametersOf(bufferOf(picture.b64_json)) ?? {};
  return {
    url: `data:image/${format};base64,${picture.b64_json}`,
    body: { ...(body ?? bodyOf(parameters)), model: job.model, seed: picture.seed },
    inputs: parameters.images?.length ?? 0,
    size,
    status: `Drawn in ${seconds} s with seed ${picture.seed}.`,
    warnings: [...warnings, ...Object.entries(cut).map(([field, count]) => `The last ${count} tokens of ${field} were not read.`)],
  };
}

/** Shows pictures and their facts. `onShow(result)` is called for each result that is shown. */
export class Gallery {
  constructor(onShow) {
    this.onShow = onShow;
    this.shown = null;
    this.ratio = null;
    this.buttons = new Map();
    $("picture").addEventListener("load", () => this.#shape(this.ratio ?? $("picture").naturalWidth / $("picture").naturalHeight));
  }

  /** Adds a result to the list: in front, or at the end if it is older than those there. */
  add(result, { isOlder = false } = {}) {
    const button = make("button", { type: "button", ariaLabel: `Show: ${result.body.prompt}, seed ${result.body.seed}` });
    button.append(make("img", { src: result.url, alt: "" }));
    button.addEventListener("click", () => this.show(result));
    const item = make("li", {});
    item.append(button);
    this.buttons.set(result, button);
    if (isOlder) $("gallery").append(item);
    else $("gallery").prepend(item);
    $("gallery-section").hidden = false;
  }

  /** Shows a result; with null the empty canvas. */
  show(result) {
    if (!result) return this.showPreview(null, 1);
    this.shown = result;
    this.ratio = null;
    this.#mark(result);
    this.#picture(result.url, result.body.prompt, false);
    Object.assign($("save"), { href: result.url, download: `omnigen2-${result.body.seed}.png` });
    $("another-seed").hidden = !result.body.images;
    $("warnings").replaceChildren(...warningItems(result.warnings));
    $("facts").replaceChildren(...factRows(result));
    $("facts").hidden = $("draw-after").hidden = false;
    $("warnings").hidden = !result.warnings.length;
    this.onShow(result);
  }

  /** Shows the preview of a drawing, or with null an empty canvas. ratio: the picture's width through its height, if it is known. */
  showPreview(url, ratio) {
    this.ratio = ratio;
    this.#mark(null);
    if (ratio) this.#shape(ratio);
    this.#picture(url, "Preview of the picture under way", true);
    $("facts").hidden = $("draw-after").hidden = $("warnings").hidden = true;
  }

  #mark(shown) {
    for (const [result, button] of this.buttons) button.ariaPressed = String(result === shown);
  }

  #picture(url, alt, isPreview) {
    $("canvas").toggleAttribute("data-empty", url === null);
    $("picture").classList.toggle("preview", isPreview);
    Object.assign($("picture"), { hidden: url === null, alt });
    if (url) $("picture").src = url;
  }

  #shape(ratio) {
    $("canvas").style.setProperty("--ratio", ratio);
  }
}

function factRows({ body, inputs, size }) {
  const [from, until] = body.cfg_range ?? [0, 1];
  const facts = {
    Model: body.model, Prompt: body.prompt, "Steered away from": body.negative_prompt, Pictures: inputs || "", Size: sizeText(size),
    Steps: body.num_inference_steps, "Text guidance": body.guidance_scale, "Picture guidance": inputs ? body.image_guidance_scale : "",
    Guidance: from === 0 && until === 1 ? "" : `from ${from} until ${until}`, Scheduler: body.scheduler,
    Cache: body.cache === "none" ? "" : body.cache, Seed: body.seed,
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== "" && value !== undefined);
  return rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]);
}

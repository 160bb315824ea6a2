// Drawing: the form, the live preview, and the gallery of the session.

import { Job, statusText } from "./api.js";
import { Well, make } from "./pictures.js";

const $ = (id) => document.getElementById(id);
const SHAPES = [["Square", 1, 1], ["Landscape", 1.25, 0.75], ["Portrait", 0.75, 1.25]];

export class DrawView {
  constructor({ fail, model }) {
    this.fail = fail;
    this.model = model;
    this.results = [];
    this.well = new Well($("draw-pictures"), { label: "Input pictures", fail, onSettings: (values) => this.use(values) });
    $("draw-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw(this.body());
    });
    $("draw-form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("draw-form").requestSubmit();
    });
    $("draw-cancel").addEventListener("click", () => this.job?.cancel().catch((error) => fail(error.message)));
    $("edit-this").addEventListener("click", () => {
      this.well.clear();
      this.well.add(this.shown.url);
      $("prompt").focus();
      $("prompt").select();
    });
    $("another-seed").addEventListener("click", () => this.draw({ ...this.shown.body, seed: undefined }));
    $("reuse").addEventListener("click", () => this.useBody(this.shown.body));
  }

  offerSizes(own) {
    const sizes = SHAPES.map(([name, across, down]) => [`${Math.round((own * across) / 16) * 16}x${Math.round((own * down) / 16) * 16}`, name]);
    $("size").replaceChildren(new Option("Automatic", "auto"), ...sizes.map(([size, name]) => new Option(`${name}, ${size.replace("x", " × ")}`, size)));
  }

  body() {
    const fields = Object.fromEntries(new FormData($("draw-form")));
    const numbers = ["num_inference_steps", "guidance_scale", "image_guidance_scale", "seed"];
    for (const name of numbers) fields[name] = fields[name] === "" ? undefined : Number(fields[name]);
    return { kind: "draw", model: this.model(), ...fields, images: [...this.well.urls] };
  }

  async draw(body) {
    if (this.job) return;
    this.fail("");
    this.#busy(true);
    this.#status("Sending…");
    this.job = new Job(body, (event) => this.#show(event));
    try {
      const job = await this.job.finished;
      if (job === null) return this.#stopped();
      const [picture] = job.result.data;
      const url = `data:image/${job.result.output_format};base64,${picture.b64_json}`;
      const result = { url, body: { ...body, seed: picture.seed }, seconds: job.result.seconds, size: job.result.size };
      this.#add(result);
      this.#select(result);
      const cut = Object.entries(job.result.cut_tokens).map(([field, count]) => ` The last ${count} tokens of ${field} were not read.`);
      this.#status(`Drawn in ${job.result.seconds} s with seed ${picture.seed}.${cut.join("")}`);
    } catch (error) {
      this.fail(error.message);
      this.#stopped();
    } finally {
      this.job = null;
      this.#busy(false);
    }
  }

  /** Takes over the parameters that a file carries. */
  use(values) {
    const size = values.width_px && values.height_px ? `${values.width_px}x${values.height_px}` : "auto";
    const cache = /^(TeaCache|TaylorSeer)/.exec(values.cache ?? "")?.[1].toLowerCase() ?? "none";
    this.useBody({
      prompt: values.prompt, negative_prompt: values.negative_prompt, size, cache, num_inference_steps: values.steps,
      guidance_scale: values.text_guidance, image_guidance_scale: values.image_guidance, scheduler: values.scheduler, seed: values.seed,
    });
  }

  useBody(body) {
    const form = $("draw-form");
    for (const [name, value] of Object.entries(body)) {
      const field = form.elements.namedItem(name);
      if (!field || value === undefined || value === null) continue;
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === String(value))) field.add(new Option(value));
      field.value = value;
    }
    if (body.images) {
      this.well.clear();
      for (const url of body.images) this.well.add(url);
    }
    form.querySelector("details").open = true;
    $("prompt").focus();
  }

  #show(event) {
    if (event.type === "preview") {
      $("picture").classList.add("preview");
      this.#picture(`data:image/png;base64,${event.b64_json}`, "Preview of the picture under way");
      return;
    }
    if (event.type === "step") Object.assign($("draw-progress"), { max: event.steps, value: event.step });
    this.#status(statusText(event));
  }

  #stopped() {
    this.#status(this.job?.cancelled ? "Cancelled." : "");
    if (this.shown) this.#select(this.shown);
    else this.#picture(null, "");
  }

  #add(result) {
    this.results.unshift(result);
    const button = make("button", { type: "button", ariaLabel: `Show: ${result.body.prompt}, seed ${result.body.seed}` });
    button.append(make("img", { src: result.url, alt: "" }));
    button.addEventListener("click", () => this.#select(result));
    const item = make("li", {});
    item.append(button);
    result.button = button;
    $("gallery").prepend(item);
    $("gallery-section").hidden = false;
  }

  #select(result) {
    this.shown = result;
    for (const { button } of this.results) button.ariaPressed = String(button === result.button);
    $("picture").classList.remove("preview");
    this.#picture(result.url, result.body.prompt);
    Object.assign($("save"), { href: result.url, download: `omnigen2-${result.body.seed}.png` });
    const { body } = result;
    const facts = {
      Prompt: body.prompt, "Steered away from": body.negative_prompt, Pictures: body.images.length || "", Size: result.size.replace("x", " × "),
      Steps: body.num_inference_steps, "Text guidance": body.guidance_scale, "Picture guidance": body.images.length ? body.image_guidance_scale : "",
      Scheduler: body.scheduler, Cache: body.cache === "none" ? "" : body.cache, Seed: body.seed,
    };
    const rows = Object.entries(facts).filter(([, value]) => value !== "" && value !== undefined);
    $("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
    $("facts").hidden = $("draw-after").hidden = false;
  }

  #picture(url, alt) {
    $("canvas").toggleAttribute("data-empty", url === null);
    Object.assign($("picture"), { hidden: url === null, alt });
    if (url) $("picture").src = url;
  }

  #busy(isBusy) {
    $("draw-start").disabled = $("another-seed").disabled = isBusy;
    $("draw-cancel").hidden = $("draw-progress").hidden = !isBusy;
    $("draw-progress").value = 0;
    $("canvas").ariaBusy = String(isBusy);
  }

  #status(text) {
    $("draw-status").textContent = text;
  }
}

// Drawing: the form, and the job under way.

import { LostConnection } from "./api.js";
import { $, reveal, showBusy } from "./elements.js";
import { Gallery, resultOf } from "./gallery.js";
import { Job, forget, lookUp, remember, remembered, statusText } from "./jobs.js";
import { Well } from "./pictures.js";
import { bodyOf, fillForm, readForm, sizeText } from "./settings.js";

const SHAPES = [["Square", 1, 1], ["Landscape", 1.25, 0.75], ["Portrait", 0.75, 1.25]];

export class DrawView {
  constructor({ fail, model, chooseModel }) {
    this.fail = fail;
    this.chooseModel = chooseModel;
    this.form = $("draw-form");
    this.well = new Well($("draw-pictures"), { label: "Input pictures", fail, onSettings: (parameters) => this.#use(bodyOf(parameters)) });
    this.gallery = new Gallery((result) => this.#onShow(result));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw({ ...readForm(this.form), model: model(), images: [...this.well.urls] });
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    $("draw-cancel").addEventListener("click", () => this.cancel());
    $("edit-this").addEventListener("click", () => this.edit(this.gallery.shown.url));
    $("another-seed").addEventListener("click", () => this.draw({ ...this.gallery.shown.body, seed: undefined }));
    $("reuse").addEventListener("click", () => this.#use(this.gallery.shown.body));
  }

  /** Offers a model's sizes. own: the side of the pictures that it was trained for. */
  offerSizes(own) {
    const chosen = $("size").value;
    const options = SHAPES.map(([name, across, down]) => {
      const size = [across, down].map((part) => Math.round((own * part) / 16) * 16).join("x");
      return new Option(`${name}, ${sizeText(size)}${across === down ? " (trained size)" : ""}`, size);
    });
    $("size").replaceChildren(new Option("Automatic", "auto"), ...options);
    if (options.some(({ value }) => value === chosen)) $("size").value = chosen;
  }

  /** Lists this session's drawings again, and follows the one that is under way. */
  async restore() {
    for (const id of remembered("draw")) {
      const job = await lookUp(id);
      if (job?.state === "done") this.#restored(resultOf(job));
      else if (!["queued", "running"].includes(job?.state)) forget("draw", id);
      else if (!this.job) this.#follow(id);
    }
  }

  draw(body) {
    if (this.job) return;
    this.fail("");
    this.#follow(body);
    reveal($("draw-live"));
  }

  cancel() {
    this.job?.cancel().catch(this.fail);
  }

  /** Takes a picture to be edited. */
  edit(url) {
    this.well.clear();
    this.well.add(url);
    $("prompt").focus();
    $("prompt").select();
  }

  /** Follows a new job, of a body, or one that was accepted before, by its id. */
  async #follow(what) {
    const body = typeof what === "string" ? null : what;
    this.isWatched = true;
    this.ratio = body && ratioOf(body);
    this.#status(body ? "Sending…" : "");
    this.gallery.showPreview(null, this.ratio);
    this.job = new Job(what, (event) => this.#on(event));
    this.#busy(true);
    let result = null;
    let ending = "";
    try {
      const job = await this.job.finished;
      if (job) result = resultOf(job, body);
      else ending = "Cancelled.";
    } catch (error) {
      this.fail(error);
      if (error instanceof LostConnection) ending = "Not sent.";
    }
    this.job = null;
    this.#busy(false);
    this.#status("");
    if (result) this.gallery.add(result);
    this.gallery.show(result ?? this.gallery.shown);
    if (ending) this.#status(ending);
  }

  #on(event) {
    if (event.type === "accepted") remember("draw", event.id);
    else if (event.type === "step") Object.assign($("draw-progress"), { max: event.steps, value: event.step });
    if (event.type === "preview" && this.isWatched) this.gallery.showPreview(`data:image/png;base64,${event.b64_json}`, this.ratio);
    const text = statusText(event);
    if (text) this.#status(text);
  }

  /** While a drawing is under way, a chosen picture stays on the canvas, and the status is the drawing's. */
  #onShow(result) {
    if (this.job) this.isWatched = false;
    else this.#status(result.status);
  }

  #restored(result) {
    this.gallery.add(result, { isOlder: true });
    if (!this.job && !this.gallery.shown) this.gallery.show(result);
  }

  #use(body) {
    this.fail("");
    this.chooseModel(body.model);
    fillForm(this.form, body);
    if (body.images) {
      this.well.clear();
      for (const url of body.images) this.well.add(url);
    } else this.fail("This picture was made from others, which its file does not hold. Add them to repeat it.");
    this.form.querySelector("details").open = true;
    $("prompt").focus();
  }

  #busy(isBusy) {
    showBusy(isBusy, { start: $("draw-start"), cancel: $("draw-cancel") });
    $("another-seed").ariaDisabled = $("canvas").ariaBusy = String(isBusy);
    $("draw-progress").hidden = !isBusy;
    $("draw-progress").value = 0;
  }

  #status(text) {
    $("draw-status").textContent = text;
  }
}

/** The width through the height of a body's picture, or null where the model decides. */
function ratioOf({ size, images }) {
  if (size === "auto") return images.length ? null : 1;
  const [width, height] = size.split("x");
  return width / height;
}

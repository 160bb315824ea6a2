// Reflection: the pictures of a job, each beside what the model said of it.

import { LostConnection } from "./api.js";
import { $, make, pictureActions, reveal, showBusy, warningItems } from "./elements.js";
import { Job, forget, lookUp, remember, remembered, statusText } from "./jobs.js";

export class ReflectView {
  constructor({ fail, model, edit }) {
    this.fail = fail;
    this.edit = edit;
    $("reflect-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start(model());
    });
    $("reflect-cancel").addEventListener("click", () => this.cancel());
  }

  cancel() {
    this.job?.cancel().catch(this.fail);
  }

  /** Shows this session's last reflection again, or follows it. */
  async restore() {
    const [id] = remembered("reflect");
    if (id === undefined || this.job) return;
    const job = await lookUp(id);
    if (job?.state === "done") this.#finish(job);
    else if (["queued", "running"].includes(job?.state)) this.#follow(id);
    else forget("reflect", id);
  }

  start(model) {
    if (this.job) return;
    this.fail("");
    const seed = $("reflect-seed").value;
    this.#follow({
      kind: "reflect", model, prompt: $("reflect-prompt").value, rounds: Number($("rounds").value),
      num_inference_steps: Number($("reflect-steps").value), seed: seed === "" ? undefined : Number(seed),
    });
    reveal($("reflect-stage"));
  }

  /** Follows a new job, of a body, or one that was accepted before, by its id. */
  async #follow(what) {
    this.#clear();
    this.job = new Job(what, (event) => this.#on(event));
    this.#busy(true);
    try {
      const job = await this.job.finished;
      if (job) this.#finish(job);
      else this.#status("Cancelled.");
    } catch (error) {
      this.fail(error);
      this.#status(error instanceof LostConnection ? "Not sent." : "");
    }
    this.preview?.item.remove();
    this.job = null;
    this.#busy(false);
  }

  #on(event) {
    if (event.type === "accepted") remember("reflect", event.id);
    else if (event.type === "following") this.#clear();
    else if (event.type === "round") this.#round(event);
    else if (event.type === "preview") this.#preview(event);
    else if (event.type === "step") Object.assign($("reflect-progress"), { max: event.steps, value: event.step });
    if (statusText(event)) this.#status(`Picture ${this.rounds.length + 1}. ${statusText(event)}`);
  }

  #clear() {
    this.rounds = [];
    this.preview = null;
    $("rounds-list").replaceChildren();
    this.#status("");
  }

  #preview(event) {
    this.preview ??= this.#item(`Picture ${this.rounds.length + 1}, under way`);
    this.preview.image.className = "preview";
    this.preview.image.src = `data:image/png;base64,${event.b64_json}`;
  }

  #round({ b64_json: data, grade, critique, edit }) {
    const { item, image, text } = this.preview ?? this.#item("");
    this.preview = null;
    const number = this.rounds.push(item);
    const url = `data:image/png;base64,${data}`;
    Object.assign(image, { src: url, className: "", alt: `Picture ${number}` });
    const list = make("dl", { className: "critique" });
    const facts = { Grade: grade, "What the model said of it": critique, "The correction that it asked for": critique && (edit || "none") };
    for (const [name, value] of Object.entries(facts)) {
      if (value !== "" && value !== null) list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
    }
    text.replaceChildren(make("h2", { textContent: `Picture ${number}` }), list, pictureActions(url, `omnigen2-reflect-${number}`, this.edit));
  }

  #item(title) {
    const item = make("li", { className: "round" });
    const image = make("img", { alt: "Preview of the picture under way" });
    const figure = make("figure", {});
    const text = make("div", {});
    figure.append(image);
    text.append(make("h2", { textContent: title }));
    item.append(figure, text);
    $("rounds-list").append(item);
    return { item, image, text };
  }

  #finish({ result, seed }) {
    this.#clear();
    for (const round of result.rounds) this.#round(round);
    const best = this.rounds[result.best];
    best.classList.add("best");
    best.querySelector("h2").append(" · kept");
    const list = make("ul", { className: "warnings" });
    list.append(...warningItems(result.warnings));
    if (list.children.length) best.lastChild.append(list);
    this.#status(`Picture ${result.best + 1} of ${this.rounds.length} was kept, with seed ${seed}.`);
  }

  #busy(isBusy) {
    showBusy(isBusy, { start: $("reflect-start"), cancel: $("reflect-cancel") });
    $("reflect-progress").hidden = !isBusy;
    $("reflect-progress").value = 0;
  }

  #status(text) {
    $("reflect-status").textContent = text;
  }
}

// Reflection: each round's picture, what the model said of it, and the picture that came of that.

import { Job, statusText } from "./api.js";
import { make } from "./pictures.js";

const $ = (id) => document.getElementById(id);

export class ReflectView {
  constructor({ fail, model }) {
    this.fail = fail;
    this.model = model;
    $("reflect-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    $("reflect-cancel").addEventListener("click", () => this.job?.cancel().catch((error) => fail(error.message)));
  }

  async start() {
    if (this.job) return;
    this.fail("");
    this.rounds = [];
    $("rounds-list").replaceChildren();
    this.#busy(true);
    const seed = $("reflect-seed").value;
    const body = {
      kind: "reflect", model: this.model(), prompt: $("reflect-prompt").value, rounds: Number($("rounds").value),
      num_inference_steps: Number($("reflect-steps").value), seed: seed === "" ? undefined : Number(seed),
    };
    this.job = new Job(body, (event) => this.#show(event));
    try {
      const job = await this.job.finished;
      if (job === null) return this.#status("Cancelled.");
      const { best } = job.result;
      for (const figure of $("rounds-list").querySelectorAll(`[data-round="${best}"]`)) {
        figure.classList.add("best");
        figure.querySelector("figcaption").append(" · kept");
      }
      this.#status(`Picture ${best + 1} of ${this.rounds.length} was kept, with seed ${job.seed}.`);
    } catch (error) {
      this.fail(error.message);
      this.#status("");
    } finally {
      this.job = null;
      this.#busy(false);
    }
  }

  #show(event) {
    if (event.type === "step") Object.assign($("reflect-progress"), { max: event.steps, value: event.step });
    if (event.type === "round") this.#round(event);
    else if (event.type !== "preview") this.#status(`Picture ${this.rounds.length + 1}. ${statusText(event)}`);
  }

  /** A card holds a picture, what was said of it, and the next picture once that is drawn. */
  #round(event) {
    const index = this.rounds.push(event) - 1;
    if (index > 0) this.open.append(this.#figure(event, index));
    if (index > 0 && !event.edit) return;
    const card = make("li", { className: "round" });
    card.append(make("h2", { textContent: event.edit ? `Correction ${index + 1}` : "Nothing to correct" }));
    const said = make("dl", { className: "critique" });
    for (const [name, text] of [["Critique", event.critique], ["Instruction", event.edit]]) {
      if (text) said.append(make("dt", { textContent: name }), make("dd", { textContent: text }));
    }
    card.append(said, this.#figure(event, index));
    $("rounds-list").append(card);
    this.open = card;
  }

  #figure(event, index) {
    const figure = make("figure", {});
    figure.dataset.round = index;
    const grade = event.grade === null ? "" : ` · graded ${event.grade}`;
    figure.append(make("img", { src: `data:image/png;base64,${event.b64_json}`, alt: `Picture ${index + 1}` }));
    figure.append(make("figcaption", { textContent: `Picture ${index + 1}${grade}` }));
    return figure;
  }

  #busy(isBusy) {
    $("reflect-start").disabled = isBusy;
    $("reflect-cancel").hidden = $("reflect-progress").hidden = !isBusy;
    $("reflect-progress").value = 0;
  }

  #status(text) {
    $("reflect-status").textContent = text;
  }
}

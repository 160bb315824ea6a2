// Chat: words and pictures, streamed.

import { Job, statusText } from "./api.js";
import { Well, make } from "./pictures.js";

const $ = (id) => document.getElementById(id);

export class ChatView {
  constructor({ fail, model }) {
    this.fail = fail;
    this.model = model;
    this.messages = [];
    this.well = new Well($("chat-pictures"), { label: "Pictures of your message", fail });
    $("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("question").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("chat-form").requestSubmit();
    });
    $("chat-cancel").addEventListener("click", () => this.job?.cancel().catch((error) => fail(error.message)));
    $("chat-new").addEventListener("click", () => this.restart());
  }

  restart() {
    this.job?.cancel().catch(() => {});
    this.messages = [];
    $("chat-log").replaceChildren($("chat-hint"));
    $("chat-hint").hidden = false;
    $("question").focus();
  }

  async send() {
    if (this.job) return;
    this.fail("");
    const text = $("question").value;
    const urls = [...this.well.urls];
    const pictures = urls.map((url) => ({ type: "image_url", image_url: { url } }));
    const asked = { role: "user", content: [...pictures, { type: "text", text }] };
    const history = this.messages;
    const mine = this.#bubble("mine", "You", text, urls);
    const theirs = this.#bubble("theirs", "The model", "", []);
    $("question").value = "";
    this.well.clear();
    this.#busy(true);
    this.job = new Job({ kind: "chat", model: this.model(), messages: [...history, asked] }, (event) => this.#show(event, theirs));
    try {
      const job = await this.job.finished;
      if (job === null) throw new Error("");
      const { message } = job.result.choices[0];
      theirs.text.textContent = message.content ?? "";
      theirs.preview?.remove();
      for (const picture of message.images) theirs.bubble.append(make("img", { src: picture.image_url.url, alt: `Picture of: ${text}` }));
      if (this.messages === history) this.messages = [...history, asked, message];
    } catch (error) {
      this.fail(error.message);
      mine.bubble.remove();
      theirs.bubble.remove();
      $("question").value = text;
      for (const url of urls) this.well.add(url);
    } finally {
      this.job = null;
      this.#busy(false);
      $("chat-status").textContent = "";
      $("question").focus();
    }
  }

  #show(event, theirs) {
    if (event.type === "text") theirs.text.textContent += event.text;
    else if (event.type === "preview") {
      theirs.preview ??= theirs.bubble.appendChild(make("img", { alt: "Preview of the picture under way" }));
      theirs.preview.src = `data:image/png;base64,${event.b64_json}`;
    } else $("chat-status").textContent = statusText(event);
    $("chat-log").scrollTop = $("chat-log").scrollHeight;
  }

  #bubble(kind, who, text, urls) {
    $("chat-hint").hidden = true;
    const bubble = make("div", { className: `message ${kind}` });
    const words = make("span", { textContent: text });
    bubble.append(make("span", { className: "who", textContent: `${who}: ` }));
    for (const url of urls) bubble.append(make("img", { src: url, alt: "Picture of the message" }));
    bubble.append(words);
    $("chat-log").append(bubble);
    $("chat-log").scrollTop = $("chat-log").scrollHeight;
    return { bubble, text: words };
  }

  #busy(isBusy) {
    $("chat-send").disabled = isBusy;
    $("chat-cancel").hidden = !isBusy;
  }
}

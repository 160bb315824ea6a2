// Chat: words and pictures, streamed.

import { $, make, pictureActions, showBusy, warningItems } from "./elements.js";
import { Job, statusText } from "./jobs.js";
import { Well } from "./pictures.js";

export class ChatView {
  constructor({ fail, model, edit }) {
    this.fail = fail;
    this.model = model;
    this.edit = edit;
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
    $("chat-cancel").addEventListener("click", () => this.cancel());
    $("chat-new").addEventListener("click", () => this.restart());
    addEventListener("pagehide", () => this.cancel()); // the page does not keep conversations
  }

  cancel() {
    this.job?.cancel().catch(this.fail);
  }

  restart() {
    this.cancel();
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
    this.job = new Job({ kind: "chat", model: this.model(), messages: [...history, asked] }, (event) => this.#show(event, theirs));
    this.#busy(true);
    try {
      const job = await this.job.finished;
      if (job) {
        this.#answer(job.result, theirs, text);
        if (this.messages === history) this.messages = [...history, asked, job.result.choices[0].message];
      } else this.#takeBack(mine, theirs, history, text, urls);
    } catch (error) {
      this.fail(error);
      this.#takeBack(mine, theirs, history, text, urls);
    }
    this.job = null;
    this.#busy(false);
  }

  #show(event, theirs) {
    const isAtEnd = this.#isAtEnd();
    if (event.type === "following") theirs.text.textContent = "";
    else if (event.type === "text") theirs.text.textContent += event.text;
    else if (event.type === "preview") {
      theirs.preview ??= theirs.bubble.appendChild(make("img", { alt: "Preview of the picture under way" }));
      theirs.preview.src = `data:image/png;base64,${event.b64_json}`;
    } else if (statusText(event)) $("chat-status").textContent = statusText(event);
    if (isAtEnd) this.#toEnd();
  }

  #answer({ choices: [{ message }], warnings }, theirs, text) {
    theirs.text.textContent = message.content ?? "";
    theirs.preview?.remove();
    for (const { image_url: { url } } of message.images) {
      theirs.bubble.append(make("img", { src: url, alt: `Picture of: ${text}` }), pictureActions(url, "omnigen2-chat", this.edit));
    }
    const list = make("ul", { className: "warnings" });
    list.append(...warningItems(warnings));
    if (list.children.length) theirs.bubble.append(list);
    this.#toEnd();
  }

  /** Removes a message without an answer from the log, and puts it back into the form unless the conversation is another. */
  #takeBack(mine, theirs, history, text, urls) {
    mine.bubble.remove();
    theirs.bubble.remove();
    if (this.messages !== history) return;
    $("chat-hint").hidden = history.length > 0;
    $("question").value = text;
    for (const url of urls) this.well.add(url);
  }

  #bubble(kind, who, text, urls) {
    $("chat-hint").hidden = true;
    const bubble = make("div", { className: `message ${kind}` });
    const words = make("span", { textContent: text });
    bubble.append(make("span", { className: "who", textContent: `${who}: ` }));
    for (const url of urls) bubble.append(make("img", { src: url, alt: "Picture of the message" }));
    bubble.append(words);
    $("chat-log").append(bubble);
    this.#toEnd();
    return { bubble, text: words };
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = $("chat-log");
    return scrollHeight - scrollTop - clientHeight < 80;
  }

  /** Scrolls to the log's end, once its pictures have their sizes. */
  async #toEnd() {
    await Promise.allSettled([...$("chat-log").querySelectorAll("img")].map((image) => image.decode()));
    $("chat-log").scrollTop = $("chat-log").scrollHeight;
  }

  #busy(isBusy) {
    showBusy(isBusy, { start: $("chat-send"), cancel: $("chat-cancel"), next: $("question") });
    $("chat-status").textContent = isBusy ? "Sending…" : "";
  }
}

// Input pictures: dropped, pasted or chosen.

import { make } from "./elements.js";
import { parametersOf } from "./png.js";

const MOST = 5;
const MOST_BYTES = 20 * 2 ** 20;

/**
 * A well for up to five pictures in `element`. `urls` holds them as data URLs.
 * `onSettings(parameters)`, if there is one, gets the parameters of a picture's file; the picture leaves the well then.
 */
export class Well {
  constructor(element, { label, fail, onSettings }) {
    this.urls = [];
    this.element = element;
    this.fail = fail;
    this.onSettings = onSettings;
    const input = make("input", { type: "file", accept: "image/*", multiple: true, hidden: true });
    const choose = make("button", { type: "button", textContent: "Add pictures" });
    choose.addEventListener("click", () => input.click());
    input.addEventListener("change", async () => {
      await this.addFiles(input.files);
      input.value = "";
    });
    this.choose = choose;
    this.list = make("ul", { className: "thumbs" });
    this.list.setAttribute("aria-label", label);
    this.count = make("span", {});
    const row = make("div", { className: "row" });
    row.append(choose, this.count, input);
    element.append(this.list, row);
    this.#show();
  }

  async addFiles(files) {
    for (const file of files) {
      if (!file.type.startsWith("image/")) this.fail(`${file.name} is not a picture.`);
      else if (file.size > MOST_BYTES) this.fail(`${file.name} is larger than 20 MB.`);
      else this.add(await dataUrl(file), parametersOf(await file.arrayBuffer()));
    }
  }

  add(url, parameters = null) {
    if (this.urls.length >= MOST) return this.fail(`At most ${MOST} pictures are taken.`);
    this.urls.push(url);
    const number = this.urls.length;
    const item = make("li", {});
    const remove = make("button", { type: "button", className: "remove", textContent: "×", ariaLabel: `Remove picture ${number}` });
    remove.addEventListener("click", () => {
      if (item.contains(document.activeElement)) this.choose.focus();
      this.urls.splice([...this.list.children].indexOf(item), 1);
      item.remove();
      this.#show();
    });
    item.append(make("img", { src: url, alt: `Input picture ${number}` }), remove);
    if (parameters && this.onSettings) {
      const settings = make("button", { type: "button", className: "settings", textContent: "Use its settings" });
      settings.title = "Takes over what this picture was drawn with, and takes the picture out";
      settings.addEventListener("click", () => {
        remove.click();
        this.onSettings(parameters);
      });
      item.append(settings);
    }
    this.list.append(item);
    this.#show();
  }

  clear() {
    this.urls = [];
    this.list.replaceChildren();
    this.#show();
  }

  #show() {
    this.count.textContent = this.urls.length ? `${this.urls.length} of ${MOST}` : "or drop or paste up to five";
  }
}

/** Sends pictures that are dropped or pasted anywhere to the well that `current()` gives. */
export function listenForPictures(current) {
  const over = (event, isOver) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    current()?.element.classList.toggle("over", isOver);
  };
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => over(event, false));
  addEventListener("drop", (event) => {
    over(event, false);
    if (event.dataTransfer?.files.length) current()?.addFiles(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) current()?.addFiles(files);
  });
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

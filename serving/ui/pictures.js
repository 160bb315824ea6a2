// Input pictures: dropped, pasted or chosen. And the parameters that a PNG file carries.

const MOST = 5;
const MOST_BYTES = 20 * 2 ** 20;

/** A well for up to five pictures in `element`. `urls` holds them as data URLs. */
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
      else this.add(await dataUrl(file), await readParameters(file));
    }
  }

  add(url, parameters = null) {
    if (this.urls.length >= MOST) return this.fail(`At most ${MOST} pictures are taken.`);
    this.urls.push(url);
    const number = this.urls.length;
    const item = make("li", {});
    const remove = make("button", { type: "button", className: "remove", textContent: "×", ariaLabel: `Remove picture ${number}` });
    remove.addEventListener("click", () => {
      this.urls.splice([...this.list.children].indexOf(item), 1);
      item.remove();
      this.#show();
    });
    item.append(make("img", { src: url, alt: `Input picture ${number}` }), remove);
    if (parameters && this.onSettings) {
      const settings = make("button", { type: "button", className: "settings", textContent: "settings" });
      settings.ariaLabel = `Use the settings that picture ${number} was drawn with`;
      settings.addEventListener("click", () => this.onSettings(parameters));
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

/** The parameters in a PNG's text chunk "omnigen2", or null. */
export async function readParameters(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const latin = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (bytes.length < 8 || latin(1, 4) !== "PNG") return null;
  for (let place = 8; place + 12 <= bytes.length; place += view.getUint32(place) + 12) {
    const length = view.getUint32(place);
    if (latin(place + 4, place + 8) !== "tEXt" || length > 2 ** 20) continue;
    const text = new TextDecoder("latin1").decode(bytes.subarray(place + 8, place + 8 + length));
    if (!text.startsWith("omnigen2\0")) continue;
    try {
      return JSON.parse(text.slice(9));
    } catch {
      return null;
    }
  }
  return null;
}

/** An element with properties. */
export function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

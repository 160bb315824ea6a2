// The page: tabs, the model, the key, and where pictures go that are dropped or pasted.

import { call, onKeyNeeded } from "./api.js";
import { ChatView } from "./chat.js";
import { DrawView } from "./draw.js";
import { listenForPictures } from "./pictures.js";
import { ReflectView } from "./reflect.js";

const $ = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[role=tab]")];

function fail(message) {
  $("notice").textContent = message;
  $("notice").hidden = !message;
}

onKeyNeeded(
  () =>
    new Promise((resolve) => {
      $("key-dialog").showModal();
      $("key-form").addEventListener("submit", () => resolve($("key").value), { once: true });
    }),
);

const shared = { fail, model: () => $("model").value };
const draw = new DrawView(shared);
const chat = new ChatView(shared);
new ReflectView(shared);

function select(tab) {
  for (const each of tabs) {
    const isChosen = each === tab;
    each.ariaSelected = String(isChosen);
    each.tabIndex = isChosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !isChosen;
  }
  fail("");
  tab.focus();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const shown = tabs.filter((each) => !each.hidden);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) select(shown[(shown.indexOf(tab) + step + shown.length) % shown.length]);
  });
}

listenForPictures(() => ({ draw: draw.well, chat: chat.well })[tabs.find((tab) => tab.ariaSelected === "true").getAttribute("aria-controls")]);

function offer(abilities) {
  draw.offerSizes(abilities.sample_px);
  $("tab-chat").hidden = !abilities.chat;
  $("tab-reflect").hidden = !abilities.reflection;
  if (tabs.find((tab) => tab.ariaSelected === "true").hidden) select($("tab-draw"));
}

try {
  const { models } = await (await call("/v1/capabilities")).json();
  $("model").replaceChildren(...Object.keys(models).map((name) => new Option(name)));
  $("model").addEventListener("change", () => offer(models[$("model").value]));
  offer(models[$("model").value]);
  document.documentElement.dataset.ready = "";
} catch (error) {
  fail(error.message);
}

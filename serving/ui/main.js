// The page: tabs, the model, the key, notices, and where pictures go that are dropped or pasted.

import { KeyMissing, LostConnection, call, onConnection, onKeyNeeded } from "./api.js";
import { ChatView } from "./chat.js";
import { DrawView } from "./draw.js";
import { $ } from "./elements.js";
import { listenForPictures } from "./pictures.js";
import { ReflectView } from "./reflect.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
let models = {};

/** Shows an error, or a text; an empty one takes the notice away. A lost connection has a notice of its own. */
function fail(problem) {
  if (problem instanceof LostConnection) return;
  $("notice-text").textContent = problem.message ?? problem;
  $("notice").hidden = !$("notice-text").textContent;
  $("notice-action").hidden = !(problem instanceof KeyMissing);
}

function askForKey(isRefused) {
  const dialog = $("key-dialog");
  $("key-refused").hidden = !isRefused;
  $("key").ariaInvalid = String(isRefused);
  $("key").value = dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? $("key").value : null), { once: true });
  });
}

const shared = { fail, model: () => $("model").value, chooseModel, edit };
const views = { draw: new DrawView(shared), chat: new ChatView(shared), reflect: new ReflectView(shared) };
const chosenTab = () => tabs.find((tab) => tab.ariaSelected === "true");
const chosenView = () => views[chosenTab().getAttribute("aria-controls")];

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
    const offered = tabs.filter((each) => !each.hidden);
    const place = offered.indexOf(tab);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(offered.at(next % offered.length));
  });
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !$("key-dialog").open) chosenView().cancel();
});
listenForPictures(() => chosenView().well);

function edit(url) {
  select($("tab-draw"));
  views.draw.edit(url);
}

function chooseModel(name) {
  if (!models[name]) return;
  $("model").value = name;
  views.draw.offerSizes(models[name].sample_px);
  $("tab-chat").hidden = !models[name].chat;
  $("tab-reflect").hidden = !models[name].reflection;
  if (chosenTab().hidden) select($("tab-draw"));
}

/** Asks what the server can do, and makes the page usable. Called again after a lost connection, and for another key. */
async function start() {
  fail("");
  try {
    ({ models } = await (await call("/v1/capabilities")).json());
    const [chosen, names] = [$("model").value, Object.keys(models)];
    $("model").replaceChildren(...names.map((name) => new Option(name)));
    chooseModel(models[chosen] ? chosen : names[0]);
    if ("ready" in document.documentElement.dataset) return;
    document.documentElement.dataset.ready = "";
    for (const name of Object.keys(views)) $(name).inert = false;
    await Promise.all([views.draw.restore(), views.reflect.restore()]);
  } catch (error) {
    fail(error);
  }
}

$("model").addEventListener("change", () => chooseModel($("model").value));
$("notice-action").addEventListener("click", start);
onKeyNeeded(askForKey);
onConnection((isThere) => {
  $("connection").hidden = isThere;
  if (isThere) start();
});
start();

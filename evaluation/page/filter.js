"use strict";
const task = document.getElementById("task");
const missing = document.getElementById("missing");
const shown = document.getElementById("shown");
const cards = [...document.querySelectorAll("article")];
function apply() {
  let count = 0;
  for (const card of cards) {
    const fits = (!task.value || card.dataset.task === task.value) && (!missing.checked || card.dataset.missing === "yes");
    card.hidden = !fits;
    count += fits ? 1 : 0;
  }
  shown.textContent = count + " of " + cards.length + " samples";
}
document.querySelector(".filter").hidden = false;
task.addEventListener("change", apply);
missing.addEventListener("change", apply);
apply();

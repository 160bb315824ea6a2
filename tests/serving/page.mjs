// Uses the page as a person would, in Chromium, by keyboard where it can be. Ends with an error where something is not as it should be.
// node page.mjs URL FOLDER CHROMIUM MODULES: the server, where screenshots go, the browser, and the folder that holds playwright-core.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [url, folder, executablePath, modules] = process.argv.slice(2);
const { chromium } = createRequire(path.join(path.resolve(modules), "x.js"))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const problems = [];
const simulated = []; // patterns of problems that the test brings about
const PHONE = { width: 390, height: 844 };
const TABLET = { width: 820, height: 900 };
const DESKTOP = { width: 1280, height: 900 };

/** A tab of its own, with a session of its own. */
async function openTab(address) {
  const context = await browser.newContext({ viewport: DESKTOP, reducedMotion: "reduce" });
  const tab = await context.newPage();
  const note = (text) => simulated.some((pattern) => pattern.test(text)) || problems.push(text);
  tab.setDefaultTimeout(60_000);
  tab.on("console", (message) => message.type() === "error" && note(`${message.text()} ${message.location().url}`));
  tab.on("pageerror", (error) => note(String(error)));
  // Chromium reports a response whose body a script read as a stream as aborted, even where it was read to its end.
  tab.on("requestfailed", (request) => request.url().endsWith("/events") || note(`${request.url()} ${request.failure()?.errorText}`));
  await tab.goto(address);
  return tab;
}

const page = await openTab(url);
const focused = () => page.evaluate(() => document.activeElement?.id ?? "");
const status = (id, text) => page.waitForFunction(([id, text]) => document.getElementById(id).textContent.includes(text), [id, text]);
const galleryHas = (count) => page.waitForFunction((count) => document.querySelectorAll("#gallery li").length === count, count);
const isReady = (tab = page) => tab.waitForSelector("html[data-ready]");

/** Presses Tab until the element has the focus. */
async function tabTo(id) {
  for (let presses = 0; presses < 60; presses += 1) {
    if ((await focused()) === id) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${id} can't be reached by Tab`);
}

async function setNumber(id, value) {
  await tabTo(id);
  await page.keyboard.press("Control+A");
  await page.keyboard.type(String(value));
}

/** Waits until all of these elements are in the window. */
async function inView(...selectors) {
  await page.waitForFunction((selectors) => selectors.every((selector) => {
    const { top, bottom, height } = document.querySelector(selector).getBoundingClientRect();
    return height > 0 && top >= 0 && bottom <= innerHeight;
  }), selectors, { timeout: 5000 }).catch(() => assert.fail(`${selectors} are not all in view at ${page.viewportSize().width} px`));
}

/** Screenshots at the three widths, light and dark. */
async function screenshot(name, tab = page) {
  for (const { width, height } of [PHONE, TABLET, DESKTOP]) {
    await tab.setViewportSize({ width, height });
    const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `${name} at ${width} px is ${overflow} px too wide`);
    for (const colorScheme of ["dark", "light"]) {
      await tab.emulateMedia({ colorScheme });
      await tab.screenshot({ path: path.join(folder, `${name}-${width}-${colorScheme}.png`), fullPage: true });
    }
  }
}

await isReady();
const unlabelled = await page.evaluate(() =>
  [...document.querySelectorAll("input:not([hidden]), select, textarea, progress, button")]
    .filter((each) => !each.labels?.length && !each.ariaLabel && !each.textContent.trim())
    .map((each) => each.id || each.outerHTML));
assert.deepEqual(unlabelled, [], "elements without a label");
assert.match(await page.textContent("#size"), /128 × 128 \(trained size\)/);

// Draw by keyboard alone, see the preview, and cancel. The focus is never lost.
await page.setViewportSize(PHONE);
await tabTo("prompt");
await page.keyboard.type("a large red circle on a blue background");
await setNumber("steps", 200);
await tabTo("draw-start");
await page.keyboard.press("Enter");
await page.waitForSelector("#picture.preview:not([hidden])");
await inView("#picture", "#draw-progress", "#draw-cancel", "#draw-status");
assert.equal(await focused(), "draw-start");
await tabTo("draw-cancel");
await page.keyboard.press("Enter");
await status("draw-status", "Cancelled");
assert.equal(await focused(), "draw-start");
await page.setViewportSize(TABLET);
await page.keyboard.press("Control+Enter");
await page.waitForSelector("#picture.preview:not([hidden])");
await inView("#picture", "#draw-progress", "#draw-cancel", "#draw-status");
await page.keyboard.press("Escape");
await status("draw-status", "Cancelled");

// Draw to the end, and again with another seed. The status is that of the picture on the canvas.
await page.fill("#steps", "12");
await page.fill("#seed", "7");
await page.click("#draw summary");
await page.fill("#max-pixels", "9216");
await page.focus("#prompt");
await page.keyboard.press("Control+Enter");
await status("draw-status", "with seed 7.");
const [width, height] = await page.evaluate(() => ["clientWidth", "clientHeight"].map((side) => document.getElementById("canvas")[side]));
assert.equal(width, height, "the canvas has the picture's shape");
await screenshot("draw");
await page.click("#another-seed");
await galleryHas(2);
assert.ok(!(await page.textContent("#draw-status")).includes("seed 7."), "another seed");
await page.click("#gallery li:nth-child(2) button");
await status("draw-status", "with seed 7.");

// After a reload the pictures are there again, and the drawing under way is followed.
await page.fill("#steps", "200");
await page.fill("#max-pixels", "");
await page.click("#draw-start");
await page.waitForSelector("#picture.preview:not([hidden])");
await page.reload();
await page.waitForSelector("#picture.preview:not([hidden])");
await galleryHas(2);
await page.click("#gallery li:nth-child(2) button");
await page.waitForTimeout(300);
assert.equal(await page.locator("#picture.preview").count(), 0, "a chosen picture stays on the canvas");
await page.keyboard.press("Escape");
await status("draw-status", "Cancelled");
await page.click("#gallery li:nth-child(2) button");
await status("draw-status", "with seed 7.");

// Drop the picture as a file, and use its settings: the picture leaves the well.
await page.evaluate(async () => {
  const data = Uint8Array.from(atob(document.getElementById("save").href.split(",")[1]), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([data], "dropped.png", { type: "image/png" }));
  for (const type of ["dragover", "drop"]) dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
});
await page.waitForSelector("#draw-pictures .thumbs li");
await screenshot("dropped");
await page.click("#draw-pictures .settings");
assert.equal(await page.locator("#draw-pictures .thumbs li").count(), 0);
const fields = { prompt: "a large red circle on a blue background", steps: "12", seed: "7", "max-pixels": "9216", size: "auto" };
for (const [id, value] of Object.entries(fields)) assert.equal(await page.inputValue(`#${id}`), value);

// Edit it.
await page.click("#edit-this");
assert.equal(await page.locator("#draw-pictures .thumbs li").count(), 1);
await page.fill("#prompt", "make the circle green");
await page.fill("#image-guidance", "2");
await page.click("#draw-start");
await galleryHas(3);

// Chat about a picture, then ask for one. The composer stays in the window, and only the log scrolls.
await page.focus("#tab-draw");
for (const [key, tab] of [["End", "tab-reflect"], ["Home", "tab-draw"], ["ArrowRight", "tab-chat"]]) {
  await page.keyboard.press(key);
  assert.equal(await focused(), tab);
}
await page.setViewportSize(PHONE);
await page.setInputFiles("#chat-pictures input", {
  name: "circle.png", mimeType: "image/png",
  buffer: Buffer.from((await page.getAttribute("#save", "href")).split(",")[1], "base64"),
});
await page.fill("#question", "what colour is the background?");
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.querySelector("#chat-cancel[hidden]") && document.querySelectorAll(".message").length === 2);
assert.ok((await page.textContent(".message.theirs:last-child span:last-child")).length > 2);
await page.fill("#question", "a small blue star on a white background");
await page.keyboard.press("Enter");
await page.waitForSelector(".message img[alt^='Preview']");
await inView("#chat-send", "#chat-cancel", "#chat-status", ".message:last-child img");
assert.equal(await page.evaluate(() => document.documentElement.scrollHeight - innerHeight), 0, "the page does not scroll");
await page.waitForSelector(".message.theirs:nth-last-child(1) img[alt^='Picture of:']");
assert.equal(await focused(), "question");
await screenshot("chat");
await page.click(".message .actions button");
await page.waitForSelector("#draw-pictures .thumbs li");
assert.equal(await focused(), "prompt");

// Reflect, and see the result again after a reload.
await page.click("#tab-reflect");
await page.fill("#reflect-prompt", "a small white star above a large purple square on a yellow background");
await page.fill("#reflect-steps", "12");
await page.focus("#reflect-start");
await page.keyboard.press("Enter");
await page.waitForSelector(".round img.preview");
await status("reflect-status", "was kept");
assert.equal(await focused(), "reflect-start");
await page.reload();
await galleryHas(3);
await page.click("#reuse");
await status("notice-text", "made from others");
await page.click("#tab-reflect");
await status("reflect-status", "was kept");
assert.equal(await page.locator(".round.best .actions a[download]").count(), 1);
await screenshot("reflect");

// A lost connection: the notice goes away, the drawing is found again, and the server's warnings stand under the picture.
simulated.push(/ERR_CONNECTION_RESET/);
await page.click("#tab-draw");
await page.route("**/ready", (route) => route.abort("connectionreset"), { times: 1 });
await page.route("**/events", async (route) => {
  const response = await route.fetch();
  await route.fulfill({ response, body: (await response.text()).replaceAll('"cut_tokens": {', '"warnings": ["Mind the colours."], "cut_tokens": {') });
}, { times: 1 });
await page.route("**/events", (route) => route.abort("connectionreset"), { times: 1 });
await page.fill("#prompt", "a small blue star on a white background");
await page.fill("#steps", "12");
await page.click("#draw-start");
await page.waitForSelector("#connection:not([hidden])");
await galleryHas(4);
assert.ok(await page.isHidden("#connection"));
await status("warnings", "Mind the colours.");

// A job that the server no longer has is dropped.
simulated.push(/404 .*\/v1\/jobs\/job_gone/);
await page.evaluate(() => sessionStorage.setItem("jobs-draw", JSON.stringify(["job_gone", ...JSON.parse(sessionStorage.getItem("jobs-draw"))])));
await page.reload();
await galleryHas(4);
assert.ok(await page.isHidden("#notice"));

// A server with a key: a dialog that is closed can be had again, and a wrong key is called wrong.
simulated.push(/ 401 /);
const guarded = await openTab("about:blank");
await guarded.route("**/v1/**", (route) =>
  route.request().headers().authorization === "Bearer the right key" ? route.continue() : route.fulfill({ status: 401, json: {} }));
await guarded.goto(url);
await guarded.waitForSelector("#key-dialog[open]");
await guarded.keyboard.press("Escape");
await guarded.click("#notice-action");
for (const key of ["a wrong key", "the right key"]) {
  assert.equal(await guarded.isVisible("#key-refused"), key === "the right key");
  await guarded.fill("#key", key);
  await guarded.keyboard.press("Enter");
  await guarded.waitForSelector(key === "the right key" ? "html[data-ready]" : "#key-refused:not([hidden])");
}
assert.ok(await guarded.isHidden("#notice"));
assert.equal(await guarded.inputValue("#model"), "nano");

// The API's page: names in one piece, required fields first, ranges, and a way back.
const docs = await openTab(`${url}/docs`);
await docs.waitForSelector("#operations #types");
await docs.setViewportSize(PHONE);
const folded = await docs.evaluate(() => document.documentElement.scrollHeight);
await docs.click("#contents a[href='#generations_v1_images_generations_post']");
await docs.waitForSelector("#generations_v1_images_generations_post[open]");
await screenshot("docs", docs);
await docs.setViewportSize(PHONE);
const unfolded = await docs.evaluate(() => {
  document.querySelectorAll("details").forEach((each) => (each.open = true));
  return document.documentElement.scrollHeight;
});
assert.ok(folded < unfolded / 4, `folded, it is short: ${folded} of ${unfolded} pixels`);
const broken = await docs.evaluate(() => [...document.querySelectorAll("code")].filter((each) => each.getClientRects().length > 1).map((each) => each.textContent));
assert.deepEqual(broken, [], "names that are broken into two lines");
const text = await docs.textContent("#generations_v1_images_generations_post");
assert.match(text, /prompt required.*num_inference_stepsinteger, 1 to 200.*Without effect/);
assert.ok(!text.includes("`"));
await docs.click("header a");
await isReady(docs);
await docs.click("header a");
await docs.waitForURL("**/docs");
await browser.close();
assert.deepEqual(problems, [], "problems in the console");

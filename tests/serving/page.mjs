// Uses the page as a person would, in Chromium, by keyboard where it can be. Ends with an error where something is not as it should be.
// node page.mjs URL FOLDER CHROMIUM MODULES: the server, where screenshots go, the browser, and the folder that holds playwright-core.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [url, folder, executablePath, modules] = process.argv.slice(2);
const { chromium } = createRequire(path.join(path.resolve(modules), "x.js"))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(60_000);
const problems = [];
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
// Chromium reports a response whose body a script read as a stream as aborted, even where it was read to its end.
page.on("requestfailed", (request) => request.url().endsWith("/events") || problems.push(`${request.url()} ${request.failure()?.errorText}`));

const focused = () => page.evaluate(() => document.activeElement?.id ?? "");

/** Presses Tab until the element has the focus. */
async function tabTo(id) {
  for (let presses = 0; presses < 60; presses += 1) {
    if ((await focused()) === id) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`${id} can't be reached by Tab`);
}

const status = (id, text) => page.waitForFunction(([id, text]) => document.getElementById(id).textContent.includes(text), [id, text]);
const setNumber = async (id, value) => {
  await tabTo(id);
  await page.keyboard.press("Control+A");
  await page.keyboard.type(String(value));
};
const screenshot = async (name) => {
  for (const width of [390, 820, 1280]) {
    await page.setViewportSize({ width, height: 900 });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `${name} at ${width} px is ${overflow} px too wide`);
    await page.screenshot({ path: path.join(folder, `${name}-${width}.png`), fullPage: true });
  }
};

await page.goto(url);
await page.waitForSelector("html[data-ready]");
const unlabelled = await page.evaluate(() =>
  [...document.querySelectorAll("input:not([hidden]), select, textarea, progress, button")]
    .filter((each) => !each.labels?.length && !each.ariaLabel && !each.textContent.trim())
    .map((each) => each.id || each.outerHTML));
assert.deepEqual(unlabelled, [], "elements without a label");

// Draw by keyboard alone, see a preview, cancel.
await tabTo("prompt");
await page.keyboard.type("a large red circle on a blue background");
await setNumber("steps", 200);
await tabTo("draw-start");
await page.keyboard.press("Enter");
await page.waitForSelector("#picture.preview:not([hidden])");
await tabTo("draw-cancel");
await page.keyboard.press("Enter");
await status("draw-status", "Cancelled");

// Draw to the end.
await page.fill("#steps", "12");
await page.fill("#seed", "7").catch(async () => {
  await page.click("summary");
  await page.fill("#seed", "7");
});
await page.focus("#prompt");
await page.keyboard.press("Control+Enter");
await status("draw-status", "with seed 7");
await screenshot("draw");
await page.click("#another-seed");
await page.waitForFunction(() => document.querySelectorAll("#gallery li").length === 2);
assert.ok(!(await page.textContent("#draw-status")).includes("seed 7."), "another seed");

// Drop the picture as a file: it carries its settings, and is edited.
await page.evaluate(() => {
  const [, button] = document.querySelectorAll("#gallery button");
  button.click();
});
await page.fill("#prompt", "something else");
await page.evaluate(async () => {
  const data = Uint8Array.from(atob(document.getElementById("save").href.split(",")[1]), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([data], "dropped.png", { type: "image/png" }));
  for (const type of ["dragover", "drop"]) dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}).catch((error) => problems.push(String(error)));
await page.waitForSelector("#draw-pictures .thumbs li");
await page.click("#draw-pictures .settings");
assert.equal(await page.inputValue("#prompt"), "a large red circle on a blue background");
assert.equal(await page.inputValue("#seed"), "7");
await page.fill("#prompt", "make the circle green");
await page.fill("#image-guidance", "2");
await page.click("#draw-start");
await page.waitForFunction(() => document.querySelectorAll("#gallery li").length === 3);
await page.click("#edit-this");
assert.equal(await page.locator("#draw-pictures .thumbs li").count(), 1);

// Chat about a picture, then ask for one.
await tabTo("tab-draw").catch(() => page.focus("#tab-draw"));
await page.keyboard.press("ArrowRight");
assert.equal(await focused(), "tab-chat");
await page.setInputFiles("#chat-pictures input", {
  name: "circle.png", mimeType: "image/png",
  buffer: Buffer.from((await page.getAttribute("#save", "href")).split(",")[1], "base64"),
});
await page.fill("#question", "what colour is the background?");
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.querySelector("#chat-send:not(:disabled)") && document.querySelectorAll(".message").length === 2);
assert.ok((await page.textContent(".message.theirs:last-child span:last-child")).length > 2);
await page.fill("#question", "a small blue star on a white background");
await page.keyboard.press("Enter");
await page.waitForSelector(".message.theirs:nth-last-child(1) img[alt^='Picture of']");
await screenshot("chat");

// Reflect.
await page.focus("#tab-chat");
await page.keyboard.press("ArrowRight");
await page.fill("#reflect-prompt", "a small white star above a large purple square on a yellow background");
await page.fill("#reflect-steps", "12");
await page.click("#reflect-start");
await status("reflect-status", "was kept");
assert.ok((await page.locator(".round figure.best").count()) >= 1);
await screenshot("reflect");

await page.emulateMedia({ colorScheme: "dark" });
await page.focus("#tab-reflect");
await page.keyboard.press("ArrowRight");
await screenshot("dark");

const docs = await context.newPage();
docs.on("console", (message) => message.type() === "error" && problems.push(message.text()));
await docs.goto(`${url}/docs`);
await docs.waitForSelector("#operations article:nth-child(8)");
await browser.close();
assert.deepEqual(problems, [], "problems in the console");

// Calls of the server's interface: with the key, and with a notice while the server can't be reached.

const RETRY_MS = 1000;
let key = sessionStorage.getItem("key") ?? "";
let askForKey = () => Promise.resolve(null);
let showConnection = () => {};
let entry = null; // a promise while the key is being entered
let wait = null; // a promise while the server can't be reached

/** The connection failed before the answer's end. */
export class LostConnection extends Error {}

/** The server wants a key, and none was entered. */
export class KeyMissing extends Error {}

/** Sets the function that asks for a key: `ask(isRefused)` resolves to a key, or to null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Sets the function that is called with false when the server can't be reached, and with true when it can again. */
export function onConnection(show) {
  showConnection = show;
}

/** Sends a request. Throws LostConnection, KeyMissing, or an Error with the server's message and `status`. */
export async function call(path, options = {}) {
  const sent = key;
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    reachable();
    throw new LostConnection("The server can't be reached.");
  });
  if (response.status === 401) {
    await replaceKey(sent);
    return call(path, options);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    const message = answer.error?.message ?? `The server answered with status ${response.status}.`;
    throw Object.assign(new Error(message), { status: response.status });
  }
  return response;
}

/** Resolves once the server takes requests. */
export function reachable() {
  wait ??= untilReady().finally(() => (wait = null));
  return wait;
}

async function untilReady() {
  showConnection(false);
  do await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  while (!(await fetch("/ready").then((response) => response.ok, () => false)));
  showConnection(true);
}

async function replaceKey(refused) {
  if (key !== refused) return; // another call has asked meanwhile
  entry ??= askForKey(refused !== "").finally(() => (entry = null));
  key = (await entry) ?? "";
  sessionStorage.setItem("key", key);
  if (!key) throw new KeyMissing("This server needs an API key.");
}

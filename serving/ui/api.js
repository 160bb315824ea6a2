// The server's interface: calls with the key, and jobs with their events.

let key = sessionStorage.getItem("key") ?? "";
let askForKey = () => Promise.resolve("");

/** Sets what is called when the server needs a key; it resolves to one. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** A call. Throws an Error with the server's message. */
export async function call(path, options = {}) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    key = await askForKey();
    sessionStorage.setItem("key", key);
    return call(path, options);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error?.message ?? `The server answered with status ${response.status}.`);
  }
  return response;
}

/** A job: its events go to `on(event)`. `finished` resolves to the job, or rejects; `cancel()` cancels. */
export class Job {
  constructor(body, on) {
    this.cancelled = false;
    this.finished = this.#run(body, on);
  }

  async #run(body, on) {
    const created = await (await call("/v1/jobs", { method: "POST", body: JSON.stringify(body) })).json();
    this.id = created.id;
    if (this.cancelled) await this.cancel();
    let last = null;
    for await (const event of readEvents(await call(`/v1/jobs/${this.id}/events`))) {
      if (["done", "failed", "cancelled"].includes(event.type)) last = event;
      else on(event);
    }
    if (last === null) throw new Error("The connection to the server ended.");
    if (last.type === "failed") throw new Error(last.error.message);
    return last.type === "done" ? last.job : null;
  }

  async cancel() {
    this.cancelled = true;
    if (this.id) await call(`/v1/jobs/${this.id}`, { method: "DELETE" });
  }
}

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}

/** What a job's event says, for people. */
export function statusText(event) {
  if (event.type === "queued") return event.position > 1 ? `Waiting: ${event.position - 1} before you.` : "Waiting: you are next.";
  if (event.type === "running") return "Starting…";
  if (event.type === "step") {
    const left = event.seconds_left >= 1 ? `, about ${Math.ceil(event.seconds_left)} s left` : "";
    return `Step ${event.step} of ${event.steps}${left}`;
  }
  return "";
}

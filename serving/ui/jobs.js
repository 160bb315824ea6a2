// Jobs: their events, what these say, and their ids, which outlive a reload of the page.

import { LostConnection, call, reachable } from "./api.js";

const MOST_REMEMBERED = 60;

/**
 * A job of the server's. what: a body to be sent, or the id of a job that was accepted before.
 * `on(event)` gets its events, and "accepted" with its id, and "following" whenever they begin anew.
 * `finished` resolves to the job, to null where it was cancelled, or rejects.
 */
export class Job {
  constructor(what, on) {
    this.cancelled = false;
    const abandoned = new Promise((resolve) => (this.abandon = () => resolve(null)));
    this.finished = Promise.race([this.#run(what, on), abandoned]);
  }

  async cancel() {
    this.cancelled = true;
    if (!this.id) return;
    try {
      await call(`/v1/jobs/${this.id}`, { method: "DELETE", keepalive: true });
    } catch (error) {
      if (error instanceof LostConnection) this.abandon();
      else if (error.status !== 404) throw error;
    }
  }

  async #run(what, on) {
    this.id = typeof what === "string" ? what : (await (await call("/v1/jobs", { method: "POST", body: JSON.stringify(what) })).json()).id;
    on({ type: "accepted", id: this.id });
    while (!this.cancelled) {
      const last = await this.#follow(on);
      if (last?.type === "done") return last.job;
      if (last?.type === "cancelled") return null;
      if (last && last.error.code !== "shutting_down") throw new Error(last.error.message);
      await reachable();
    }
    await this.cancel();
    return null;
  }

  /** Passes the events on, up to the last, which is returned; null where the connection ends before it. */
  async #follow(on) {
    try {
      const response = await call(`/v1/jobs/${this.id}/events`);
      on({ type: "following" });
      for await (const event of readEvents(response)) {
        if (["done", "failed", "cancelled"].includes(event.type)) return event;
        on(event);
      }
    } catch (error) {
      if (error.status === 404) throw new Error("The server no longer has this job. Start it again.");
      if (!(error instanceof LostConnection)) throw error;
    }
    return null;
  }
}

async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    while (true) {
      const { value, done } = await reader.read().catch(() => {
        throw new LostConnection("The connection to the server ended.");
      });
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What an event says, for people. */
export function statusText(event) {
  if (event.type === "queued") return event.position > 1 ? `Waiting: ${event.position - 1} before you.` : "Waiting: you are next.";
  if (event.type === "suspended") return "Waiting for the server…";
  if (event.type === "running") return "Starting…";
  if (event.type !== "step") return "";
  const left = event.seconds_left >= 1 ? `, about ${Math.ceil(event.seconds_left)} s left` : "";
  return `Step ${event.step} of ${event.steps}${left}`;
}

/** The ids of this session's jobs of a kind, the newest first. */
export function remembered(kind) {
  return JSON.parse(sessionStorage.getItem(`jobs-${kind}`) ?? "[]");
}

export function remember(kind, id) {
  const others = remembered(kind).filter((other) => other !== id);
  sessionStorage.setItem(`jobs-${kind}`, JSON.stringify([id, ...others].slice(0, MOST_REMEMBERED)));
}

export function forget(kind, id) {
  sessionStorage.setItem(`jobs-${kind}`, JSON.stringify(remembered(kind).filter((other) => other !== id)));
}

/** A job by its id, or null where the server no longer has it. */
export async function lookUp(id) {
  try {
    return await (await call(`/v1/jobs/${id}`)).json();
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

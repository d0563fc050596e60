// Talking to the server. Whatever goes wrong comes out as an Error whose message can be shown.

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function send(path, body, { signal, method = body === undefined ? "GET" : "POST" } = {}) {
  const options = body === undefined ? { method } : { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...options, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  // Where in the request it stood is for programs; people see the field.
  const message = said?.error?.message?.replace(/^body\.\w+: /, "");
  throw new ServerError(response.status, message ?? `The server answered ${response.status}.`);
}

export const ask = async (path, body) => (await send(path, body)).json();

export const remove = async (path) => (await send(path, undefined, { method: "DELETE" })).json();

/** The events of a turn, in order. */
export async function* turn(body, signal) {
  const response = await send("/api/turn", body, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  // An event may come in two pieces, or two in one.
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "The connection to the server broke off.");
    });
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

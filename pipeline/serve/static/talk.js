// A conversation as a tree: the children of one turn are versions of each other, and one of them is shown.

export class Talk {
  constructor(data = { id: null, system_prompt: null, messages: [], shown: [] }, chosen = null) {
    this.id = data.id;
    this.systemPrompt = data.system_prompt;
    this.messages = data.messages;
    this.chosen = chosen ?? new Map();
    this.byId = new Map(data.messages.map((message) => [message.id, message]));
    // Opened anew, it stands where it was left.
    if (!chosen) for (const id of data.shown) this.choose(id);
  }

  versions(parent) {
    return this.messages.filter((message) => message.parent === parent);
  }

  /** From the first question down to the last turn shown. */
  path() {
    const shown = [];
    let parent = null;
    for (;;) {
      const versions = this.versions(parent);
      if (!versions.length) return shown;
      const message = versions.find((version) => version.id === this.chosen.get(parent)) ?? versions.at(-1);
      shown.push(message);
      parent = message.id;
    }
  }

  /** Shows this version; with it, what followed it. */
  choose(id) {
    const message = this.byId.get(id);
    if (message) this.chosen.set(message.parent, id);
  }

  lastAnswer() {
    return this.path().findLast((message) => message.author !== "human");
  }
}

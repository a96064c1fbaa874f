// Conversations, kept by the browser.

const KEY = "atoll-chats";
const MOST = 50;

/** [{id, title, system, turns: [{role, content, reasoning, tokens, note}]}], the newest first. */
export class Chats {
  constructor() {
    try {
      this.all = JSON.parse(localStorage.getItem(KEY)) || [];
    } catch {
      this.all = [];
    }
    this.current = this.all[0] ?? this.start();
  }

  start() {
    this.current = { id: Date.now(), title: "New conversation", system: "", turns: [] };
    this.all = [this.current, ...this.all.filter((chat) => chat.turns.length)].slice(0, MOST);
    return this.current;
  }

  remove(chat) {
    this.all = this.all.filter((one) => one !== chat);
    if (chat === this.current) this.current = this.all[0] ?? this.start();
    this.save();
  }

  save() {
    const first = this.current.turns[0];
    if (first) this.current.title = first.content.slice(0, 60);
    // Probabilities are large, and only of use while they are looked at.
    const plain = (key, value) => (key === "tokens" ? undefined : value);
    try {
      localStorage.setItem(KEY, JSON.stringify(this.all.filter((chat) => chat.turns.length), plain));
    } catch { /* full, or not allowed: the page works without */ }
  }
}

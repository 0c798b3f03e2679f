// What labelers and people said, beside the clips; one key corrects.

import { Player } from "/clips.js";

const SIGNS = { a: "1", b: "2", tie: "=", unsure: "?" };
const NAMES = {
  labeler: "by anybody", disagreement: "agreeing or not", confidence: "any confidence", quality: "any episodes",
  task: "all tasks", sentence: "all sentences", corrected: "corrected or not",
};

export class Review {
  constructor({ call, picture, element, attempt }) {
    Object.assign(this, { call, picture, element, attempt });
    this.start = 0;
    this.filter = {};
    this.cards = [];
    this.chosen = -1;
    this.keys = {
      j: () => this.choose(this.chosen + 1), k: () => this.choose(this.chosen - 1),
      ArrowDown: () => this.choose(this.chosen + 1), ArrowUp: () => this.choose(this.chosen - 1),
      u: () => this.correct(null), Backspace: () => this.correct(null),
      " ": () => this.cards[this.chosen]?.player.toggle(),
      ArrowLeft: () => this.cards[this.chosen]?.player.step(-1),
      ArrowRight: () => this.cards[this.chosen]?.player.step(1),
    };
    document.getElementById("earlier").addEventListener("click", () => this.turn(-1));
    document.getElementById("later").addEventListener("click", () => this.turn(1));
  }

  async open() {
    this.choices((await this.call("/api/me")).filters);
    await this.fetch();
  }

  choices(filters) {
    const form = document.getElementById("filters");
    form.replaceChildren(...Object.entries(filters).filter(([, have]) => Object.keys(have).length > 1).map(([name, have]) => {
      const select = this.element("select", { name, "aria-label": name });
      select.append(this.element("option", { value: "", text: NAMES[name] || name }));
      for (const [value, text] of Object.entries(have)) select.append(this.element("option", { value, text }));
      select.value = this.filter[name] || "";
      select.addEventListener("change", () => {
        if (select.value) this.filter[name] = select.value; else delete this.filter[name];
        this.start = 0;
        select.blur();
        this.attempt("No review", () => this.fetch());
      });
      return select;
    }));
  }

  async fetch() {
    const found = await this.call("/api/review", { filter: this.filter, start: this.start });
    this.total = found.total;
    this.size = found.pairs.length;
    document.getElementById("found").textContent = found.total
      ? `${found.start + 1} to ${found.start + this.size} of ${found.total} pairs, the most doubtful first`
      : "No pair passes these filters.";
    document.getElementById("earlier").disabled = this.start === 0;
    document.getElementById("later").disabled = this.start + this.size >= found.total;
    for (const card of this.cards) card.player.pause();
    this.cards = found.pairs.map((pair, k) => this.card(pair, k));
    document.getElementById("cards").replaceChildren(...this.cards.map((card) => card.root));
    this.chosen = -1;
    for (const card of this.cards) card.player.load(card.pair.pair, card.pair.sides, { only: true }).catch(() => {});
    if (this.cards.length) this.choose(0, { scroll: false });
  }

  turn(by) {
    this.start = Math.max(0, this.start + by * 12);
    this.attempt("No review", async () => { await this.fetch(); scrollTo(0, 0); });
  }

  card(pair, k) {
    const e = this.element;
    const side = (n) => e("figure", { "data-side": n }, e("canvas"), e("figcaption", {}, e("b", { text: String(n + 1) }), pair.truth ? e("span", { text: ` progress ${pair.truth[n].toFixed(2)}` }) : ""));
    const transport = e("div", { class: "transport" }, e("button", { type: "button", class: "play", "aria-label": "Play or pause" }), e("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": "Place in the clips" }), e("output"));
    transport.hidden = true;
    const facts = [pair.task, pair.quality === "not known" ? "" : pair.quality, pair.crossing ? "a clip crosses the border of two episodes" : ""].filter(Boolean).join(" · ");
    const stage = e("div", { class: "pair" }, side(0), side(1));
    const yours = e("p", { class: "yours" });
    const buttons = e("div", { class: "correct" }, ...Object.entries(SIGNS).map(([value, text]) => {
      const button = e("button", { type: "button", "data-answer": value, "aria-label": `Correct to ${text}` }, e("kbd", { text }));
      button.addEventListener("click", () => { this.choose(k, { scroll: false }); this.correct(value); button.blur(); });
      return button;
    }));
    const words = e("div", { class: "words" },
      e("h2", { text: pair.sentence, dir: "auto" }), e("p", { class: "faint", text: facts }),
      ...pair.said.map((one) => this.said(one)), buttons);
    buttons.append(yours);
    const root = e("article", {}, e("div", {}, stage, transport), words);
    root.addEventListener("click", (event) => { if (!event.target.closest("button, input")) this.choose(k, { scroll: false }); });
    const card = { pair, root, yours, player: new Player(stage, transport, this.picture) };
    this.mark(card);
    return card;
  }

  said(one) {
    const e = this.element;
    const sure = one.probability === null ? "" : `p(1 better) = ${one.probability.toFixed(2)}`;
    const how = [one.person ? (one.sighted ? "person, having seen this" : "person, blind") : "", one.swapped ? "asked the other way round" : ""].filter(Boolean).join(", ");
    const line = e("p", { class: "said" }, e("b", { class: `sign ${one.answer}`, text: SIGNS[one.answer] }), e("span", { class: "name", text: one.who }), e("span", { class: "faint", text: [sure, how].filter(Boolean).join(" · ") }));
    const box = e("div", {}, line);
    if (one.text) box.append(e("pre", { text: one.text, dir: "auto", tabindex: 0 }));
    return box;
  }

  mark(card) {
    card.yours.textContent = card.pair.yours ? `You corrected this to ${SIGNS[card.pair.yours]}` : "";
    for (const button of card.root.querySelectorAll("[data-answer]")) {
      button.toggleAttribute("aria-pressed", button.dataset.answer === card.pair.yours);
    }
  }

  choose(k, { scroll = true } = {}) {
    if (k < 0 || k >= this.cards.length || k === this.chosen) return;
    this.cards[this.chosen]?.root.classList.remove("current");
    this.cards[this.chosen]?.player.pause();
    this.chosen = k;
    const card = this.cards[k];
    card.root.classList.add("current");
    if (scroll) card.root.scrollIntoView({ block: "nearest", behavior: "smooth" });
    card.player.load(card.pair.pair, card.pair.sides).catch(() => {});
  }

  correct(answer) {
    const card = this.cards[this.chosen];
    if (!card) return;
    this.attempt("Not saved", async () => {
      const found = await this.call("/api/correct", { pair: card.pair.pair, answer });
      card.pair.yours = found.yours;
      this.mark(card);
    });
  }
}

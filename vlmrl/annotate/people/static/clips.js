// Two clips in step: one place in time for both, drawn from pictures that are fetched with the token.

export class Player {
  constructor(root, transport, fetchPicture) {
    this.canvases = [...root.querySelectorAll("canvas")];
    this.transport = transport;
    this.fetchPicture = fetchPicture;
    this.frames = [[], []];
    this.phase = 0;
    this.playing = false;
    this.load_number = 0;
    this.slider = transport.querySelector("input");
    this.button = transport.querySelector("button");
    this.output = transport.querySelector("output");
    this.slider.addEventListener("input", () => { this.pause(); this.seek(this.slider.value / 1000); });
    this.button.addEventListener("click", () => this.toggle());
  }

  // `only`: the last picture alone, for cards that nobody looks at yet.
  async load(key, sides, { only = false } = {}) {
    const mine = ++this.load_number;
    this.pause();
    this.sides = sides;
    this.duration = Math.min(6, Math.max(1.5, ...sides.map((s) => s.seconds || 0)));
    const wanted = sides.map((s) => (only ? [s.frames - 1] : [...Array(s.frames).keys()]).filter((n) => n >= 0));
    const found = await Promise.all(wanted.map((numbers, side) =>
      Promise.all(numbers.map((n) => this.fetchPicture(key, side, n)))));
    if (mine !== this.load_number) return false;
    this.frames = found;
    this.transport.hidden = only || this.length < 2;
    for (const canvas of this.canvases) canvas.parentElement.classList.remove("empty");
    this.seek(this.length > 1 ? 0 : 1);
    if (!only && this.length > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
    return true;
  }

  get length() { return Math.max(...this.frames.map((f) => f.length)); }

  seek(phase) {
    this.phase = Math.min(1, Math.max(0, phase));
    this.frames.forEach((frames, side) => this.draw(side, frames[Math.round(this.phase * (frames.length - 1))]));
    this.slider.value = Math.round(1000 * this.phase);
    this.output.textContent = `${Math.round(this.phase * (this.length - 1)) + 1} / ${this.length}`;
  }

  draw(side, picture) {
    const canvas = this.canvases[side];
    if (!picture) {
      canvas.parentElement.classList.add("empty");
      canvas.width = 4; canvas.height = 3;
      return;
    }
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      canvas.width = picture.width;
      canvas.height = picture.height;
    }
    canvas.getContext("2d").drawImage(picture, 0, 0);
  }

  step(by) {
    this.pause();
    if (this.length > 1) this.seek(this.phase + by / (this.length - 1));
  }

  toggle() { this.playing ? this.pause() : this.play(); }

  play() {
    if (this.length < 2 || this.playing) return;
    this.playing = true;
    this.button.textContent = "❚❚";
    let before = performance.now(), rest = 0;
    const tick = (now) => {
      if (!this.playing) return;
      const elapsed = (now - before) / 1000;
      before = now;
      if (this.phase >= 1) {
        // The end is what matters most: it stays for a moment.
        rest += elapsed;
        if (rest > 0.7) { rest = 0; this.seek(0); }
      } else {
        this.seek(this.phase + elapsed / this.duration);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  pause() {
    this.playing = false;
    this.button.textContent = "▶";
  }
}

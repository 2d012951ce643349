// The lesson: eight steps fed by one message. What was answered is kept in this browser; every number comes with the message.

const KEPT = "fkv-lesson-1";
const EVERY = 5000; // ms between looks at whether the live run has moved on
const MOVED = 4; // chunks

function rich(text) {
  const parts = text.split("**");
  return parts.map((part, index) => (index % 2 ? el("strong", {}, part) : part));
}

class Lesson {
  constructor(root, trigger) {
    this.root = root;
    this.trigger = trigger;
    this.message = null;
    this.at = 0;
    this.asked = this.changed = "";
    this.memory = this.recall();
    root.querySelector("[data-back]").addEventListener("click", () => this.show(this.at - 1));
    root.querySelector("[data-next]").addEventListener("click", () => this.show(this.at + 1));
    root.querySelector("[data-forget]").addEventListener("click", () => this.forget());
    root.querySelector(".steps ol").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.show(+button.dataset.step);
    });
    document.addEventListener("keydown", (event) => this.key(event));
    const watcher = new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && this.look(true));
    watcher.observe(root);
    this.timer = setInterval(() => (root.isConnected ? this.look(false) : clearInterval(this.timer)), EVERY);
  }

  get visible() {
    return this.root.isConnected && this.root.offsetParent !== null && !document.hidden;
  }

  // Asks for the lesson when it is first seen, and again when the live run has moved on.
  look(now) {
    if (!this.visible) return;
    const stage = window.fkvStage?.current,
      mark = `${stage?.run || ""}:${Math.floor(((stage?.newest ?? -1) + 1) / MOVED)}`;
    if (this.asked === mark && (this.message || !now)) return;
    this.asked = mark;
    this.trigger("lesson_open", {});
  }

  // ---- what is kept in the browser

  recall() {
    try {
      return JSON.parse(localStorage.getItem(KEPT)) || { at: "", steps: {} };
    } catch {
      return { at: "", steps: {} };
    }
  }

  keep() {
    this.memory.at = this.step?.key || "";
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.memory));
    } catch {
      // A browser that stores nothing forgets the progress; the lesson goes on.
    }
  }

  forget() {
    this.memory = { at: "", steps: {} };
    this.show(0);
  }

  mine(key = this.step.key) {
    return (this.memory.steps[key] ||= {});
  }

  // ---- the message

  ingest(text) {
    if (!text) return;
    const message = JSON.parse(text);
    const before = this.step,
      fresh = !this.message;
    this.message = message;
    this.root.dataset.state = "ready";
    const index = message.steps.findIndex((step) => step.key === (before?.key || this.memory.at));
    const touched = before && !before.missing && Object.keys(this.mine(before.key)).length;
    if (fresh || !touched) this.show(Math.max(0, index), !fresh);
    else this.list();
  }

  show(index, still = false) {
    if (!this.message) return;
    const left = this.step;
    this.at = Math.max(0, Math.min(this.message.steps.length - 1, index));
    this.step = this.message.steps[this.at];
    if (left?.live && left.key !== this.step.key && this.changed === left.key && Object.keys(left.live.restore).length) {
      this.set(left.live.restore);
      this.changed = "";
    }
    this.keep();
    this.list();
    this.intro();
    this.scene = null;
    const stageBox = this.root.querySelector(".scene"),
      ask = this.root.querySelector(".ask");
    stageBox.replaceChildren();
    ask.replaceChildren();
    ask.hidden = Boolean(this.step.missing);
    if (!this.step.missing) {
      this.scene = SCENES[this.step.key](this, stageBox);
      this.answers = ANSWERS[this.step.question.kind](this, ask);
    }
    this.update();
    if (!still && left && left.key !== this.step.key) {
      this.root.querySelector(".intro h2").focus({ preventScroll: true });
      this.root.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
  }

  intro() {
    const { step } = this,
      box = this.root.querySelector(".intro");
    const live =
      step.live &&
      el(
        "p",
        { class: "try" },
        el("button", { type: "button", class: "button", onclick: () => this.onLive() }, step.live.label),
        el("span", { class: "small", "data-note": true }, step.live.text),
      );
    box.replaceChildren(
      el("p", { class: "small" }, `Step ${this.at + 1} of ${this.message.steps.length}`),
      el("h2", { tabindex: "-1" }, step.title),
      ...(step.missing ? [step.missing] : step.text).map((text) => el("p", { class: "lede" }, ...rich(text))),
      live || "",
    );
    this.root.querySelector("[data-source]").replaceChildren(
      ...(step.source ? [el("b", { class: step.source.kind }, step.source.text), step.source.prompt ? ` Prompt: ${step.source.prompt}` : ""] : []),
    );
  }

  list() {
    const items = this.message.steps.map((step, index) => {
      const done = this.memory.steps[step.key]?.done,
        on = index === this.at;
      const says = `${step.title}${done ? ", done" : ""}`;
      return el(
        "li",
        { class: `${on ? "on" : ""} ${done ? "done" : ""}` },
        el(
          "button",
          { type: "button", "data-step": String(index), "aria-current": on ? "step" : null, "aria-label": `Step ${index + 1}: ${says}` },
          el("i", { "aria-hidden": "true" }, done ? "✓" : String(index + 1)),
          el("span", {}, step.title),
        ),
      );
    });
    this.root.querySelector(".steps ol").replaceChildren(...items);
  }

  // Back, Next and the words between them.
  update() {
    const next = this.root.querySelector("[data-next]"),
      following = this.message.steps[this.at + 1],
      done = this.step.missing || this.mine().done;
    next.textContent = following ? `Next: ${following.title[0].toLowerCase()}${following.title.slice(1)}` : "The end";
    next.disabled = !following || !done;
    this.root.querySelector("[data-back]").disabled = !this.at;
    this.root.querySelector("[data-left]").textContent = done ? "" : this.answers?.left?.() || "Answer first, then Next opens";
  }

  finish(said) {
    this.mine().done = true;
    this.keep();
    this.list();
    this.scene?.reveal?.();
    this.update();
    this.say(said);
  }

  say(text) {
    this.root.querySelector("[data-said]").textContent = text.replaceAll("**", "");
  }

  // ---- the live page

  // Does by the page's own controls what a step asks for, and opens the Live tab.
  async onLive() {
    const { edits } = this.step.live;
    this.changed = this.step.key;
    const trouble = await this.set(edits);
    this.note(trouble || "Set. The Live tab shows it; lane B follows at the next chunk.");
    if (!trouble) document.querySelector("#tab-live-button")?.click();
  }

  // Gives what is wrong in a sentence, or nothing.
  async set(edits) {
    const store = window.fkvStage?.current?.store,
      compress = document.querySelector("#compress input");
    if (!store?.profile) return "The model is not loaded yet; try again in a moment.";
    if ("compress" in edits && compress && compress.checked !== edits.compress) compress.click();
    const answers = [];
    if ("layer" in edits) answers.push(await store.pick(edits.layer, edits.head));
    if ("rule" in edits) answers.push(await store.classify({ rule: edits.rule, threshold: null }));
    return answers.find((answer) => answer && !answer.ok)?.error || "";
  }

  note(text) {
    const place = this.root.querySelector("[data-note]");
    if (place) place.textContent = text;
    this.say(text);
  }

  key(event) {
    if (!this.visible || !this.message || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target !== document.body && !this.root.contains(event.target)) return;
    if (event.target.closest("textarea, select, input:not([type='radio'])")) return;
    this.answers?.key?.(event);
  }
}

function mount(element, trigger, props, watch) {
  const lesson = new Lesson(element.querySelector(".lesson"), trigger);
  window.fkvLesson.current = lesson;
  watch("value", () => lesson.ingest(props.value));
  lesson.ingest(props.value);
}

// The lesson: eight steps fed by one message. What was answered is kept in this browser; every number comes with the message.

const KEPT = "fkv-lesson-1";
const EVERY = 1000; // ms between looks at whether the live run has moved on
const MOVED = 4; // chunks
const FOCUSABLE = "button:not(:disabled), input:not(:disabled), [tabindex='0'], h2";

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
    this.asked = "";
    this.memory = this.recall();
    this.begun = new Map(); // steps as they were when the learner began to answer: they stay until asked for anew
    this.places = {};
    this.live = new OnLive(this);
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
    this.timer = setInterval(() => (root.isConnected ? this.tick() : clearInterval(this.timer)), EVERY);
  }

  tick() {
    if (!this.visible || !this.message) return;
    this.look(false);
    this.live.accompany(this.waiting || {});
    this.scene?.tick?.();
  }

  get visible() {
    return this.root.isConnected && this.root.offsetParent !== null && !document.hidden;
  }

  // Asks for the lesson when it is first seen, and again when the live run has moved on.
  look(now) {
    if (!this.visible) return;
    const stage = window.fkvStage?.current,
      moved = this.waiting ? 1 : MOVED,
      mark = `${stage?.run || ""}:${this.live.running}:${Math.floor(((stage?.newest ?? -1) + 1) / moved)}`;
    if (this.asked === mark && (this.message || !now)) return;
    this.asked = mark;
    this.trigger("lesson_open", {});
  }

  // What the visitor's run still needs before this step can use it.
  get waiting() {
    return this.message?.steps[this.at].waiting;
  }

  ask(what, body = {}) {
    const stage = window.fkvStage?.current;
    return stage ? stage.ask(what, body) : Promise.resolve({ ok: false, error: "The page is still loading; try again in a moment." });
  }

  // ---- what is kept in the browser

  recall() {
    try {
      return { at: "", steps: {}, passed: {}, ...JSON.parse(localStorage.getItem(KEPT)) };
    } catch {
      return { at: "", steps: {}, passed: {} };
    }
  }

  // An answer was given or changed: the step stays as it is now.
  keep() {
    this.begun.set(this.step.key, this.step);
    this.mine().of = this.step.source.of;
    this.store();
  }

  store() {
    this.memory.at = this.step?.key || "";
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.memory));
    } catch {
      // A browser that stores nothing forgets the progress; the lesson goes on.
    }
  }

  forget() {
    this.memory = { at: "", steps: {}, passed: {} };
    this.begun.clear();
    this.show(0);
  }

  // Asks a step anew, of the newest that is there for it.
  again() {
    this.drop();
    this.show(this.at, true);
    this.root.querySelector(".intro h2").focus({ preventScroll: true });
  }

  // The newest chunk of the run for the steps that hold one still.
  renew() {
    this.drop();
    this.trigger("lesson_open", { renew: true });
  }

  drop() {
    const { key } = this.step;
    if (this.mine(key).done) this.memory.passed[key] = true;
    this.memory.steps[key] = {};
    this.begun.delete(key);
  }

  passed(key) {
    return Boolean(this.memory.passed[key] || this.memory.steps[key]?.done);
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
    const index = Math.max(
      0,
      message.steps.findIndex((step) => step.key === (before?.key || this.memory.at)),
    );
    if (fresh) this.show(index);
    else if (this.begun.has(before.key) || JSON.stringify(message.steps[index]) === JSON.stringify(before)) this.badge();
    else this.still(() => this.show(index, true));
    this.list();
  }

  // Draws anew without taking the focus away from where it was.
  still(draw) {
    const boxes = [".intro", ".scene", ".ask"].map((name) => this.root.querySelector(name)),
      box = boxes.find((one) => one.contains(document.activeElement)),
      place = box ? [...box.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement) : -1;
    draw();
    if (box) ([...box.querySelectorAll(FOCUSABLE)][place] || this.root.querySelector(".intro h2")).focus({ preventScroll: true });
  }

  // The step as it was begun, else as it is now; answers given to other numbers than these are forgotten.
  current() {
    const now = this.message.steps[this.at],
      begun = this.begun.get(now.key);
    if (begun) return begun;
    const mine = this.mine(now.key);
    if (!now.missing && Object.keys(mine).length && mine.of !== now.source.of) {
      if (mine.done) this.memory.passed[now.key] = true;
      this.memory.steps[now.key] = {};
    }
    return now;
  }

  show(index, still = false) {
    if (!this.message) return;
    const left = this.step;
    this.at = Math.max(0, Math.min(this.message.steps.length - 1, index));
    this.step = this.current();
    if (left && left.key !== this.step.key) this.live.restore();
    this.store();
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
        el("button", { type: "button", class: "button", onclick: () => this.live.go() }, step.live.label),
        el("span", { class: "small", "data-note": true }, step.live.text),
      );
    box.replaceChildren(
      el("div", { class: "whence" }, el("p", { class: "small" }, `Step ${this.at + 1} of ${this.message.steps.length}`), el("p", { class: "badge", "data-source": true })),
      el("h2", { tabindex: "-1" }, step.title),
      ...(step.missing ? [step.missing] : step.text).map((text) => el("p", { class: "lede" }, ...rich(text))),
      live || "",
    );
    this.badge();
  }

  // Which run is shown, and the way to another one.
  badge() {
    const { step } = this,
      now = this.message.steps[this.at],
      place = this.root.querySelector("[data-source]");
    if (step.missing || !place) return;
    const { kind, text, prompt, of } = step.source,
      button = (words, name, act) => el("button", { type: "button", class: "text", [name]: true, onclick: act }, words);
    const other = !now.missing && now.source.of !== of ? button(`Ask again of ${now.source.short}`, "data-again", () => this.again()) : "",
      newer = step.source.kind === "live" && /token|curve/.test(step.key) && this.live.running && !other ? button("Take the newest chunk", "data-renew", () => this.renew()) : "";
    const had = place.contains(document.activeElement);
    place.replaceChildren(el("b", { class: kind }, text), prompt ? ` Prompt: ${prompt} ` : " ", now.waiting ? `${now.waiting.text} ` : "", other, newer);
    if (had) (place.querySelector("button") || this.root.querySelector(".intro h2")).focus({ preventScroll: true });
  }

  list() {
    const items = this.message.steps.map((step, index) => {
      const done = this.passed(step.key),
        on = index === this.at;
      return el(
        "li",
        { class: `${on ? "on" : ""} ${done ? "done" : ""}` },
        el(
          "button",
          { type: "button", "data-step": String(index), "aria-current": on ? "step" : null, title: step.title },
          el("i", { "aria-hidden": "true" }, done ? "✓" : String(index + 1)),
          el("span", {}, step.title),
          done ? el("em", {}, ", done") : "",
        ),
      );
    });
    const list = this.root.querySelector(".steps ol"),
      focus = list.contains(document.activeElement) ? document.activeElement.dataset.step : null;
    list.replaceChildren(...items);
    if (focus !== null) list.querySelector(`[data-step="${focus}"]`)?.focus({ preventScroll: true });
  }

  // Back, Next and the words between them.
  update() {
    const next = this.root.querySelector("[data-next]"),
      following = this.message.steps[this.at + 1],
      done = this.step.missing || this.passed(this.step.key);
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

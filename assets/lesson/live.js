// What a step sets on the Live page: by the page's own controls, and what was there before comes back.

const ROLES = ["rule", "threshold", "overrides"];

class OnLive {
  constructor(lesson) {
    this.lesson = lesson;
    this.before = null;
    this.company = "";
  }

  get stage() {
    return window.fkvStage?.current;
  }

  get running() {
    return /running|paused/.test(this.stage?.board.name || "");
  }

  // Sets what a step asks for, opens the Live tab, and says there what was set and what to press.
  async go() {
    const { step } = this.lesson,
      trouble = await this.set(step.live.edits);
    if (trouble) return this.lesson.note(trouble);
    const words = this.running ? "Set. Lane B follows at the next chunk." : "Set. Nothing is running: press Start.";
    this.lesson.note(words);
    this.stage.board.sentence(`From the lesson, ${step.title.toLowerCase()}: ${words}`);
    const tab = document.querySelector("#tab-live-button");
    tab?.click();
    (this.running ? tab : document.querySelector("#start"))?.focus();
  }

  // Gives what is wrong in a sentence, or nothing.
  async set(edits) {
    const store = this.stage?.store;
    if (!store?.profile) return "The model is not loaded yet, or it has no head profile; try again in a moment.";
    const heads = edits.heads || [],
      gone = heads.find(([layer, head]) => layer >= store.layers || head >= store.heads);
    if (gone) return `The loaded model has no head L${gone[0]} H${gone[1]}: this step was recorded with another model.`;
    this.compress(edits);
    if (edits.prompt) this.reword();
    const answers = [];
    if (heads.length) answers.push(await this.show(heads));
    if (edits.rule) answers.push(await this.roles({ rule: edits.rule, threshold: null, overrides: new Map() }));
    return answers.find((answer) => answer && !answer.ok)?.error || "";
  }

  // The switch; and where it is on already and lane B's policy tells no classes apart, the policy of the step.
  compress({ compress, policy }) {
    const box = document.querySelector("#compress input");
    if (compress === undefined || !box) return;
    if (box.checked !== compress) box.click();
    else if (policy && !this.stage.store.parts) this.stage.trigger("run_painted", { policy });
  }

  show([first, ...others]) {
    const { store } = this.stage,
      head = ([layer, head]) => ({ layer, head });
    store.selected = head(first);
    store.pinned = [first, ...others].map(head);
    return store.pins();
  }

  // Another of the examples; its button puts it into the box and applies it.
  reword() {
    const now = document.querySelector("#prompt textarea, #prompt input")?.value.trim();
    [...document.querySelectorAll("button.example")].find((button) => button.textContent.trim() !== now)?.click();
  }

  roles(wanted) {
    const { store } = this.stage;
    this.before ||= Object.fromEntries(ROLES.map((name) => [name, store.wanted[name]]));
    this.mine = wanted.rule;
    return store.classify(wanted);
  }

  // Gives the roles back that were there before the lesson changed them, unless somebody else has changed them since.
  restore() {
    const { before, stage } = this;
    this.before = null;
    if (before && stage?.store.wanted.rule === this.mine) stage.store.classify(before);
  }

  // A step that compares two heads pins one beside the one on show, once in a run.
  accompany({ pin } = {}) {
    const { stage } = this;
    if (!pin || !this.running || this.company === stage.run || stage.store.pinned.length > 1) return;
    this.company = stage.run;
    const { layer, head } = stage.store.selected;
    this.show([[layer, head], pin]);
  }
}

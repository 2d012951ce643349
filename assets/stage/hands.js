// What a person does with pointer and keyboard on the stage: views and paces, the wipe handle, keys.

class Hands {
  constructor(stage) {
    this.stage = stage;
    const { root, player } = stage;
    choice(root, "pace", (value) => {
      player.pace = value;
      player.race = null;
      stage.live();
      stage.board.sentence("");
    });
    const view = choice(root, "view", (value) => {
      player.view = root.dataset.view = value;
      player.dirty = true;
    });
    const chart = choice(root, "chart", (value) => {
      root.querySelector(".charts").dataset.shown = value;
      stage.redraw();
    });
    chart("speed");
    if (window.matchMedia("(max-width: 700px)").matches) view("wipe");
    root.querySelector("[data-live]").addEventListener("click", () => stage.live());
    this.wipe(root.querySelector(".wipe"));
    root.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("input", (event) => {
      if (event.target === promptBox()) stage.pending();
    });
    document.addEventListener("click", (event) => {
      if (event.target.closest("#stop") && /queue|loading/.test(stage.board.name)) stage.state("idle");
    });
  }

  wipe(handle) {
    const { player } = this.stage;
    const set = (split) => {
      player.split = Math.max(0, Math.min(1, split));
      player.dirty = true;
      handle.style.left = `${100 * player.split}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * player.split));
    };
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = handle.parentElement.getBoundingClientRect();
      set((event.clientX - box.left) / box.width);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
      if (by) {
        event.preventDefault();
        event.stopPropagation();
        set(player.split + by);
      }
    });
  }

  key(event) {
    const { stage } = this,
      { player } = stage;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      jump = { "[": -1, "]": 1 }[event.key];
    if (event.key === "Escape") stage.live();
    if (event.key === " " && event.target.matches(".strip, .wipe")) {
      event.preventDefault();
      document.querySelector("#pause")?.click();
    }
    if (jump) stage.timeline.go(stage.on + jump);
    if (step && !event.target.closest("input, .seg, .scroll")) {
      event.preventDefault();
      stage.stepTo((player.scrub ?? Math.floor(player.head)) + step);
    }
  }
}

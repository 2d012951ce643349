// The kinds of questions. Each builds itself into the card below the scene and gives { left, key }; an answer can be changed until revealed.

const RIGHT = "✓ Right.",
  WRONG = "✕ Not this time.";

function verdictLine(right, text = "") {
  return el("p", { class: `result ${right ? "right" : "wrong"}` }, el("strong", {}, right ? RIGHT : WRONG), ...(text ? [" ", ...rich(text)] : []));
}

function revealed(lesson, ...first) {
  return el("div", { class: "revealed", tabindex: "-1" }, ...first, ...lesson.step.reveal.map((text) => el("p", {}, ...rich(text))));
}

// Draws the answer's card anew; where the focus was in it, it goes on to the reveal.
function turned(box, draw) {
  const had = box.contains(document.activeElement);
  draw();
  if (had) box.querySelector(".revealed")?.focus({ preventScroll: true });
}

function revealButton(reveal) {
  return el("button", { type: "button", class: "button ink", "data-reveal": true, onclick: reveal }, "Reveal");
}

const ANSWERS = {
  choice(lesson, box) {
    const { question } = lesson.step,
      mine = lesson.mine();
    const draw = () => {
      const options = question.options.map((option, index) => {
        const on = mine.answer === index,
          mark = mine.done ? (option.right ? "right" : on ? "wrong" : "other") : "";
        const input = el("input", { type: "radio", name: `lesson-${lesson.step.key}`, value: String(index), disabled: Boolean(mine.done) });
        input.checked = on;
        input.addEventListener("change", () => {
          mine.answer = index;
          lesson.keep();
          button.disabled = false;
        });
        return el("label", { class: `option ${mark}` }, input, el("span", {}, option.text), mark === "right" ? el("b", {}, "✓") : "");
      });
      const button = revealButton(reveal);
      button.disabled = mine.answer === undefined;
      const picked = question.options[mine.answer];
      box.replaceChildren(
        el("h3", { id: "lesson-question" }, question.prompt),
        el("div", { role: "radiogroup", "aria-labelledby": "lesson-question", class: "options" }, ...options),
        mine.done ? revealed(lesson, verdictLine(picked?.right, picked?.why)) : el("p", { class: "row" }, button),
      );
    };
    const reveal = () => {
      if (mine.answer === undefined || mine.done) return;
      lesson.finish(`${question.options[mine.answer].right ? RIGHT : WRONG} ${lesson.step.reveal.join(" ")}`);
      turned(box, draw);
    };
    draw();
    return {
      key(event) {
        if (event.key === "Enter" && !event.target.closest("button")) reveal();
        const index = +event.key - 1;
        if (!mine.done && index >= 0 && index < question.options.length) box.querySelectorAll("input")[index].click();
      },
    };
  },

  guess(lesson, box) {
    const { question } = lesson.step,
      mine = lesson.mine();
    const words = (value) => (question.unit === "%" ? `${Math.round(value)} %` : `${value.toFixed(1)}${question.unit}`);
    const draw = () => {
      const value = mine.answer ?? question.start;
      const out = el("output", {}, words(value));
      const input = el("input", {
        type: "range", min: String(question.low), max: String(question.high), step: String(question.step),
        "aria-label": question.prompt, disabled: Boolean(mine.done),
      });
      input.value = String(value);
      const take = () => {
        mine.answer = +input.value;
        out.textContent = words(mine.answer);
        input.setAttribute("aria-valuetext", words(mine.answer));
        lesson.keep();
      };
      input.addEventListener("input", take);
      input.addEventListener("keydown", (event) => {
        if (event.key === "Enter") reveal();
      });
      const track = el("div", { class: "slider" }, input, out);
      if (mine.done) {
        const share = Math.max(0, Math.min(1, (question.value - question.low) / (question.high - question.low)));
        track.append(el("i", { class: "truth", style: `--at:${share}` }, el("b", {}, words(question.value))));
      }
      const close = Math.abs(value - question.value) <= question.near;
      const said = `You said ${words(value)}, measured is ${words(question.value)}.`;
      const result = el("p", { class: `result ${close ? "right" : "wrong"}` }, el("strong", {}, close ? "✓ Close." : "✕ Not this time."), ` ${said}`);
      box.replaceChildren(
        el("h3", {}, question.prompt),
        track,
        mine.done ? revealed(lesson, result) : el("p", { class: "row" }, revealButton(reveal), el("span", { class: "small" }, "Move the slider, then reveal.")),
      );
    };
    const reveal = () => {
      if (mine.done) return;
      mine.answer ??= question.start;
      lesson.finish(`Measured is ${words(question.value)}. ${lesson.step.reveal.join(" ")}`);
      turned(box, draw);
    };
    draw();
    return {};
  },

  // Six heads: the cards themselves are the scene, here is only what they say together.
  cards(lesson, box) {
    const { cards } = lesson.step.data;
    const left = () => cards.filter((card) => !lesson.scene.state(card).shown).length;
    const draw = () => {
      const right = cards.filter((card) => lesson.scene.state(card).shown && lesson.scene.state(card).guess === card.kind).length;
      const open = left(),
        wrong = cards.length - open - right;
      lesson.scene.score(`${right} right`, `, ${wrong} not yet`);
      box.hidden = open > 0;
      if (open === 0) {
        const mean = el("p", { class: "result right" }, el("strong", {}, `${right} of ${cards.length} right.`));
        box.replaceChildren(el("h3", {}, "What the scale says of all heads"), revealed(lesson, mean), el("p", { class: "small" }, `Shown: ${lesson.step.data.exact}. Errors are the ${lesson.step.data.error_is}.`));
        if (!lesson.mine().done) lesson.finish(lesson.step.reveal.join(" "));
      }
      lesson.update();
    };
    lesson.scene.changed = draw;
    draw();
    return {
      left: () => `${left()} ${left() === 1 ? "head" : "heads"} left`,
      key: (event) => lesson.scene.key(event),
    };
  },

  pick(lesson, box) {
    const { question, data } = lesson.step,
      mine = lesson.mine();
    const draw = () => {
      const chosen = (mine.answer || []).length,
        button = revealButton(reveal);
      button.disabled = chosen !== data.count;
      const hits = (mine.answer || []).filter((place) => lesson.scene.kept(place)).length;
      const words = `You chose ${hits} of the ${data.count} the policy kept.`;
      const result = el("p", { class: `result ${hits === data.count ? "right" : "wrong"}` }, el("strong", {}, words));
      box.replaceChildren(
        el("h3", {}, question.prompt),
        mine.done ? revealed(lesson, result) : el("p", { class: "row" }, button, el("span", { class: "small" }, `${chosen} of ${data.count} chosen.`)),
      );
    };
    const reveal = () => {
      if (mine.done || (mine.answer || []).length !== data.count) return;
      const hits = mine.answer.filter((place) => lesson.scene.kept(place)).length;
      lesson.finish(`You chose ${hits} of the ${data.count} the policy kept. ${lesson.step.reveal.join(" ")}`);
      turned(box, draw);
    };
    lesson.scene.changed = draw;
    draw();
    return { left: () => `Choose ${data.count}` };
  },
};

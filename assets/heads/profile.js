// The head profile that classes follow from: the model's own, or one that a person brings as a file; and the one in force to take away.

const LARGEST = 2e6; // bytes, as in the server

class ProfileBar {
  constructor(node, drop, store, stage) {
    Object.assign(this, { node, drop, store, stage });
    const button = (text, title, onclick) => el("button", { type: "button", class: "plain", title, onclick }, text);
    this.file = el("input", { type: "file", accept: ".json,application/json", hidden: true, "data-profile-file": true });
    this.file.addEventListener("change", () => this.read(this.file.files[0]));
    this.name = el("span", { class: "profile-name" });
    this.back = button("Back to the model's own", "Classes from the model's own profile again", () => this.send(null, ""));
    this.said = el("p", { class: "small", role: "status" });
    this.wrong = el("p", { class: "small error", role: "alert" });
    node.replaceChildren(
      el("b", {}, "Profile"),
      this.name,
      this.file,
      button("Load a profile…", "A JSON file written by fkv or by Forcing-KV, 2 MB at most; or drop it on this card", () => this.file.click()),
      this.back,
      button("Download", "The classes in force with scores and recipe, JSON", () => this.take("fkv")),
      button("Download for Forcing-KV", "The classes in force as the released Forcing-KV reads them", () => this.take("forcing-kv")),
      this.said,
      this.wrong,
    );
    for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => this.over(event));
  }

  over(event) {
    const files = event.dataTransfer?.types?.includes("Files");
    this.drop.classList.toggle("taking", event.type === "dragover" && Boolean(files));
    if (!files || event.type === "dragleave") return;
    event.preventDefault();
    if (event.type === "drop") this.read(event.dataTransfer.files[0]);
  }

  async read(file) {
    this.file.value = "";
    if (!file) return;
    if (file.size > LARGEST)
      return this.say("", `${file.name} has ${grouped(file.size / 1e6)} MB, at most ${grouped(LARGEST / 1e6)} MB are read; choose a head profile.`);
    try {
      await this.send(await file.text(), file.name);
    } catch (error) {
      this.say("", `${file.name} could not be read; choose it again.`);
    }
  }

  // The page goes on with what it had where the server refuses.
  async send(text, name) {
    const answer = await this.stage.ask("profile", { text, name });
    if (answer.ok && answer.profile) this.stage.profile(this.stage.facts, answer.profile);
    if (answer.ok && !this.store.scored) this.stage.lab.source("run");
    this.say(answer.ok ? answer.text : "", answer.ok ? "" : answer.error);
    this.store.changed();
  }

  async take(format) {
    const answer = await this.stage.ask("profile_file", { format });
    if (!answer.ok) return this.say("", answer.error);
    const link = el("a", { href: URL.createObjectURL(new Blob([answer.text], { type: "application/json" })), download: answer.name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    this.say(`${answer.name} holds the classes now asked for.`, "");
  }

  say(text, wrong) {
    this.said.textContent = text;
    this.wrong.textContent = wrong;
  }

  draw() {
    const { profile } = this.store,
      name = profile.name ? `${profile.name}${this.store.scored ? "" : ", classes only"}` : `${this.stage.facts.title}'s own`;
    if (this.name.textContent !== name) this.name.textContent = name;
    this.back.hidden = !profile.name;
  }
}

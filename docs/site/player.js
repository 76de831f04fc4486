// A panel without a kernel: its sliders choose among pictures that were computed when the page was made.
"use strict";
(() => {
  const TIED = new Set();  // the players of a desk: a slider that two of them have moves in both
  const CLICKED = { Story: ["query", (at) => at], Manuscript: ["word", (at) => at + 1] };

  const unpacked = async (letters) => {
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  // A value with what it shares with other states put in its place.
  const whole = (parts, value) => {
    if (Array.isArray(value)) return value.map((part) => (part && typeof part === "object" ? whole(parts, part) : part));
    if (!value || typeof value !== "object") return value;
    const names = Object.keys(value);
    if (names.length === 1 && names[0] === "$") return whole(parts, parts[value.$]);
    if (names.length === 1 && names[0] === "bytes") {
      return new DataView(Uint8Array.from(atob(value.bytes), (letter) => letter.charCodeAt(0)).buffer);
    }
    return Object.fromEntries(names.map((name) => [name, whole(parts, value[name])]));
  };

  const made = (tag, more = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), more);
    element.append(...inside);
    return element;
  };

  // What a widget's own page code asks of its kernel.
  class Model {
    constructor(changed) { this.values = {}; this.calls = {}; this.changed = changed; }
    get(name) { return this.values[name]; }
    set(name, value) { this.values[name] = value; }
    on(event, call) { (this.calls[event] ??= []).push(call); }
    off() {}
    save_changes() { this.changed(this.values); }
    put(values) {
      const news = Object.keys(values).filter((name) => values[name] !== this.values[name]);
      Object.assign(this.values, values);
      for (const name of news) this.calls[`change:${name}`]?.forEach((call) => call());
    }
  }

  class Player {
    constructor(section, panel) {
      Object.assign(this, { section, panel, at: panel.controls.map((control) => control.start), above: [], cache: {} });
      section.replaceChildren();
      const controls = made("form", { className: "controls" });
      controls.addEventListener("submit", (event) => event.preventDefault());
      this.setters = panel.controls.map((control, i) => {
        const [element, set] = (control.kind === "slider" ? this.slider : this.buttons).call(this, control, i);
        controls.append(element);
        return set;
      });
      this.over = made("div");
      this.plot = made("div", { className: "plot" });
      this.plot.setAttribute("role", "figure");
      this.status = made("p", { className: "said" });
      this.status.setAttribute("role", "status");
      this.code = made("pre", { className: "ml-code", tabIndex: 0 });
      this.code.setAttribute("aria-label", "the line that makes this picture");
      const reset = made("button", { type: "button", textContent: "Reset" });
      reset.addEventListener("click", () => (TIED.has(this) ? TIED : [this]).forEach((player) => player.reset()));
      const fixed = Object.entries(panel.still).map(([name, value]) => `${name} ${value}`).join(", ");
      const words = made("dl", {}, ...panel.controls.flatMap((control) => [
        made("dt", { textContent: control.label }), made("dd", { textContent: control.help })]));
      section.append(controls, this.over, this.plot, made("div", { className: "foot" }, reset, this.status),
        made("details", {}, made("summary", { textContent: "What each control does" }), words,
          made("p", { textContent: fixed && `Fixed on this page: ${fixed}. In JupyterLab these move too.` })),
        made("details", {}, made("summary", { textContent: "The line that makes this picture" }), this.code));
      this.show();
    }

    slider(control, i) {
      const id = `${this.section.id}-${control.name}`;
      const input = made("input", { type: "range", id, min: 0, max: control.values.length - 1, step: 1 });
      const said = made("output", { htmlFor: id });
      input.addEventListener("input", () => this.change(i, Number(input.value)));
      const set = (at) => {
        input.value = at;
        said.textContent = control.values[at];
        input.setAttribute("aria-valuetext", control.values[at]);
      };
      const label = made("label", { htmlFor: id, title: control.help, textContent: control.label });
      return [made("div", { className: "control" }, label, input, said), set];
    }

    buttons(control, i) {
      const inputs = control.values.map((value, at) => {
        const input = made("input", { type: "radio", name: `${this.section.id}-${control.name}`, value: at });
        input.addEventListener("change", () => this.change(i, at));
        return input;
      });
      const labels = inputs.map((input, at) => made("label", {}, input, control.values[at]));
      const group = made("fieldset", { className: "control", title: control.help },
        made("legend", { textContent: control.label }), made("div", { className: "choices" }, ...labels));
      return [group, (at) => { inputs[at].checked = true; }];
    }

    change(i, at) {
      this.move(this.at.with(i, at));
      if (!TIED.has(this)) return;
      const { name, values } = this.panel.controls[i];
      for (const other of TIED) if (other !== this) other.follow(name, values[at]);
    }

    follow(name, value) {
      const i = this.panel.controls.findIndex((control) => control.name === name);
      const at = i < 0 ? -1 : this.panel.controls[i].values.indexOf(value);
      if (at >= 0) this.move(this.at.with(i, at));
    }

    reset() {
      this.move(this.panel.controls.map((control) => control.start));
    }

    move(at) {
      this.at = at;
      this.show();
    }

    show() {
      const { controls, states, parts } = this.panel;
      const number = controls.reduce((sum, control, i) => sum * control.values.length + this.at[i], 0);
      const raw = "$" in states[number] ? parts[states[number].$] : states[number];
      const { figure, words, code } = whole(parts, { figure: raw.figure, words: raw.words, code: raw.code });
      this.setters.forEach((set, i) => set(this.at[i]));
      const taller = this.panel.taller;
      if (taller) figure.layout.height = Math.min(this.section.clientWidth + taller, 800);
      window.Plotly.react(this.plot, figure.data, { ...figure.layout, autosize: true }, window.multipole_config);
      this.plot.setAttribute("aria-label", words);
      this.status.textContent = words;
      this.code.textContent = code.startsWith("ml.panels") ? `${this.panel.setup}\n${code}` : code || "nothing";
      whole(parts, raw.above).forEach((part, i) => this.put(i, part, JSON.stringify(raw.above)));
    }

    put(i, part) {
      if (part.kind === "text") {
        const place = (this.above[i] ??= this.over.appendChild(made("div")));
        if (place.kept !== part.values.text) place.innerHTML = place.kept = part.values.text;
        return;
      }
      const values = Object.fromEntries(Object.entries(part.values).map(([name, value]) => [name, this.same(name, value)]));
      if (this.above[i]) {
        this.above[i].put(values);
        return;
      }
      const [control, value] = CLICKED[part.kind];
      const model = new Model(({ query, chosen }) => {
        const j = this.panel.controls.findIndex(({ name }) => name === control);
        const wanted = value(query ?? chosen), far = this.panel.controls[j].values.map((v) => Math.abs(Number(v) - wanted));
        this.change(j, far.indexOf(Math.min(...far)));
      });
      Object.assign(model.values, values);
      this.above[i] = model;
      const place = this.over.appendChild(made("div"));
      window.multipole_parts[part.kind]({ model, el: place });
    }

    // The value of before where it is equal, so that a widget draws only what has changed.
    same(name, value) {
      const text = JSON.stringify(value, (_, one) => (one instanceof DataView ? [...new Uint8Array(one.buffer)] : one));
      if (this.cache[name]?.text !== text) this.cache[name] = { text, value };
      return this.cache[name].value;
    }
  }

  const begin = async (section) => {
    try {
      const player = new Player(section, await unpacked(window.multipole_states[section.dataset.states]));
      if (section.dataset.tied) TIED.add(player);
    } catch (error) {
      section.replaceChildren(made("p", { textContent:
        `This picture cannot be shown by this browser (${error.message}). Any browser of 2023 or later can.` }));
      console.error(error);
    }
  };

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      begin(target);
    }
  }, { rootMargin: "800px" });
  document.querySelectorAll("[data-states]").forEach((section) => seen.observe(section));
})();

// All classes, to be searched and chosen from: a combobox with its list in sight.

const MOST = 1200; // shown at once

export class Picker {
  #names = [];
  #found = [];
  #active = -1;
  #pinned = null;

  constructor(input, list, more, onpick) {
    Object.assign(this, { input, list, more, onpick });
    input.addEventListener("input", () => this.#search());
    input.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("click", ({ target }) => {
      const option = target.closest("[role=option]");
      if (option) this.onpick(Number(option.dataset.class));
    });
  }

  /** The names of all classes, or how many there are. */
  fill(labels, count) {
    this.#names = Array.from({ length: labels?.length ?? count }, (_, n) => labels?.[n] ?? `class ${n}`);
    this.input.placeholder = `Search ${this.#names.length.toLocaleString("en")} classes`;
    this.#search();
  }

  mark(pinned) {
    this.#pinned = pinned;
    for (const option of this.list.children) option.setAttribute("aria-selected", Number(option.dataset.class) === pinned);
  }

  #search() {
    const words = plain(this.input.value).split(/\s+/).filter(Boolean);
    const hits = [];
    this.#names.forEach((name, n) => {
      const text = plain(name);
      if (words.every((word) => text.includes(word) || word === String(n))) hits.push(n);
    });
    const first = words.join(" ");
    if (first) hits.sort((a, b) => rank(this.#names[a], first) - rank(this.#names[b], first) || a - b);
    this.#found = hits.slice(0, MOST);
    this.list.replaceChildren(...this.#found.map((n) => this.#option(n)));
    const rest = hits.length - this.#found.length;
    this.more.textContent = hits.length === 0 ? "No class is called so." : rest > 0 ? `${rest.toLocaleString("en")} more: type to narrow the list.` : "";
    this.#activate(first && this.#found.length ? 0 : -1);
  }

  #option(n) {
    const option = document.createElement("li"), number = document.createElement("small"), name = document.createElement("span");
    Object.assign(option, { id: `class-${n}`, role: "option", title: this.#names[n] });
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", n === this.#pinned);
    option.dataset.class = n;
    name.textContent = this.#names[n];
    name.dir = "auto";
    number.textContent = n;
    option.append(name, number);
    return option;
  }

  #activate(at) {
    this.list.children[this.#active]?.classList.remove("active");
    this.#active = at;
    const option = this.list.children[at];
    option?.classList.add("active");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const last = this.#found.length - 1;
    const to = { ArrowDown: Math.min(this.#active + 1, last), ArrowUp: Math.max(this.#active - 1, 0), PageDown: Math.min(this.#active + 8, last), PageUp: Math.max(this.#active - 8, 0) }[event.key];
    if (to !== undefined) this.#activate(to);
    else if (event.key === "Enter" && this.#active >= 0) this.onpick(this.#found[this.#active]);
    else if (event.key === "Escape" && this.input.value) { this.input.value = ""; this.#search(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Lower case, without accents. */
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

/** Names that begin so come first, then those with a word that does. */
const rank = (name, start) => { const text = plain(name); return text.startsWith(start) ? 0 : text.includes(` ${start}`) ? 1 : 2; };

"use strict";
// The frame: data, tabs, theme, head line, table of runs, keyboard. All text enters the page through textContent.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** An element with properties, and children that are nodes or texts. */
function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const page = {
  keys: {},

  start() {
    byId("headline").textContent = DATA.headline;
    page.showRuns();
    byId("tab-curves").onclick = () => page.tab("curves");
    byId("tab-viewer").onclick = () => page.tab("viewer");
    byId("theme").onclick = page.toggleTheme;
    byId("help-open").onclick = () => byId("help").showModal();
    Object.assign(page.keys, {
      "?": () => byId("help").showModal(),
      c: () => page.tab("curves"),
      t: () => page.tab("viewer"),
    });
    addEventListener("keydown", page.key);
    page.setTheme(page.remembered());
  },

  tab(name) {
    for (const one of ["curves", "viewer"]) {
      byId(one).hidden = one !== name;
      byId(`tab-${one}`).setAttribute("aria-selected", one === name);
    }
    dispatchEvent(new CustomEvent("tab", { detail: name }));
  },

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const typing = event.target.matches?.("input, select, textarea");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || !page.keys[event.key]) return;
    event.preventDefault();
    page.keys[event.key]();
  },

  showRuns() {
    const columns = {
      name: "Run", steps: "Steps", rollouts: "Recorded rollouts", reward: "Reward, first → last step",
      em: "EM, first → last step", alpha: "α", source: "From",
    };
    const cells = (tag, texts) => el("tr", {}, ...texts.map((text) => el(tag, {}, text)));
    byId("runs").append(
      el("thead", {}, cells("th", Object.values(columns))),
      el("tbody", {}, ...DATA.runs.map((run) => cells("td", Object.keys(columns).map((key) => run[key])))),
    );
    byId("differences").append(...DATA.differences.map((sentence) => el("li", {}, sentence)));
    byId("differences").hidden = !DATA.differences.length;
    const concerned = new Map();
    for (const run of DATA.runs) {
      for (const note of run.notes) concerned.set(note, [...(concerned.get(note) ?? []), run.name]);
    }
    byId("notes").append(...[...concerned].map(([note, names]) => el("li", {}, `${note} (${names.join(", ")})`)));
    byId("notes").hidden = !concerned.size;
  },

  toggleTheme() {
    const now = document.documentElement.dataset.theme;
    const dark = now ? now === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    page.setTheme(dark ? "light" : "dark");
  },

  setTheme(theme) {
    if (!theme) return;
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("sd-search-theme", theme); } catch { /* a file opened without storage */ }
  },

  remembered() {
    try { return localStorage.getItem("sd-search-theme"); } catch { return null; }
  },
};

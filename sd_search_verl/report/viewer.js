// The trajectory viewer: filters, a list that holds only the rows in sight, and the chosen rollout.

const viewer = (() => {
  const ROW = 48;
  const { texts, groups, rollouts, credit } = DATA.viewer;
  const MARKS = { correct: "✓", partial: "◐", wrong: "✗" };
  const members = groups.map(() => []);
  rollouts.forEach((rollout, index) => members[rollout.group].push(index));
  const lowered = [];
  let shown = [], chosen = 0, onlyGroup = null;

  const outcome = (rollout) => rollout.em > 0 ? "correct" : rollout.f1 > 0 ? "partial" : "wrong";
  const groupOf = (index) => groups[rollouts[index].group];
  const text = (value) => typeof value === "number" ? texts[value] : value;
  const number = (value) => value === null ? "–" : String(Number(value.toPrecision(3)));
  const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

  function start() {
    fillFilters();
    for (const id of ["filter-run", "filter-step", "filter-outcome", "sort"]) byId(id).onchange = filter;
    let waiting;
    byId("filter-text").oninput = () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); };
    byId("group-only").onclick = toggleGroup;
    byId("list").onscroll = () => requestAnimationFrame(showRows);
    addEventListener("resize", showRows);
    addEventListener("tab", (event) => { if (event.detail === "viewer") { showRows(); reveal(); } });
    Object.assign(page.keys, {
      j: () => move(1), k: () => move(-1), "]": () => moveGroup(1), "[": () => moveGroup(-1), g: toggleGroup,
      "/": () => { page.tab("viewer"); byId("filter-text").focus(); },
    });
    filter();
  }

  // Filters

  function fillFilters() {
    const options = (id, all, values) => byId(id).append(
      el("option", { value: "" }, all), ...values.map(([value, name]) => el("option", { value }, name)));
    options("filter-run", "All runs", DATA.runs.map((run, index) => [index, run.name]));
    options("filter-step", "All steps", [...new Set(groups.map((group) => group.step))].sort((a, b) => a - b).map((s) => [s, `Step ${s}`]));
    options("filter-outcome", "All outcomes", [
      ["correct", "✓ exact match"], ["partial", "◐ F1 above 0"], ["wrong", "✗ F1 is 0"], ["mixed", "Groups with F1 0 and above"],
      ...[...new Set(rollouts.map((rollout) => rollout.status))].sort().map((status) => [`=${status}`, status.replaceAll("_", " ")]),
    ]);
    byId("filter-run").hidden = DATA.runs.length < 2;
    byId("sort").hidden = credit === null;
  }

  function filter() {
    const [run, step, kind] = ["filter-run", "filter-step", "filter-outcome"].map((id) => byId(id).value);
    const contains = textFilter(byId("filter-text").value.trim().toLowerCase());
    const mixed = members.map((group) => new Set(group.map((index) => rollouts[index].f1 > 0)).size > 1);
    const fits = (rollout) => !kind || (kind === "mixed" ? mixed[rollout.group]
      : kind[0] === "=" ? rollout.status === kind.slice(1) : outcome(rollout) === kind);
    shown = [...rollouts.keys()].filter((index) =>
      (onlyGroup === null || rollouts[index].group === onlyGroup)
      && (run === "" || groupOf(index).run === Number(run)) && (step === "" || groupOf(index).step === Number(step))
      && fits(rollouts[index]) && contains(index));
    if (byId("sort").value === "credit") {
      const sizes = new Map(shown.map((index) => [index, largestCredit(rollouts[index])]));
      shown.sort((a, b) => sizes.get(b) - sizes.get(a));
    }
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${plural(rollouts.length, "rollout", "rollouts")}`;
    byId("group-only").setAttribute("aria-pressed", onlyGroup !== null);
    byId("list").scrollTop = 0;
    choose(shown.includes(chosen) ? chosen : shown[0]);
  }

  /** Whether a rollout holds the text. Shared texts are searched once each, the rest is kept in lower case. */
  function textFilter(needle) {
    if (!needle) return () => true;
    const hits = texts.map((shared) => shared.toLowerCase().includes(needle));
    return (index) => {
      const rollout = rollouts[index];
      lowered[index] ??= [groupOf(index).question, rollout.answer || "", ...groupOf(index).golden, ...rollout.queries,
        ...rollout.parts.filter((part) => part[0] !== "query" && typeof part[1] === "string").map((part) => part[1])]
        .join("\n").toLowerCase();
      return lowered[index].includes(needle) || rollout.parts.some(([, content]) => typeof content === "number" && hits[content]);
    };
  }

  const largestCredit = (rollout) => Math.max(0, ...rollout.parts.flatMap((part) => part[0] === "query" && part[2] || []).map(Math.abs));

  function toggleGroup() {
    page.tab("viewer");
    onlyGroup = onlyGroup === null && rollouts[chosen] ? rollouts[chosen].group : null;
    filter();
  }

  // The list

  function showRows() {
    const list = byId("list");
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const to = Math.min(shown.length, from + Math.ceil(list.clientHeight / ROW) + 10);
    byId("spacer").style.height = `${shown.length * ROW}px`;
    byId("spacer").replaceChildren(...Array.from({ length: to - from }, (_, i) => row(from + i)));
  }

  function row(place) {
    const index = shown[place], rollout = rollouts[index], group = groupOf(index), kind = outcome(rollout);
    const first = place > 0 && rollouts[shown[place - 1]].group !== rollout.group;
    const run = DATA.runs.length > 1 ? `${DATA.runs[group.run].name} · ` : "";
    const node = el("div", { className: first ? "row first" : "row", role: "option", "aria-selected": index === chosen, style: `top: ${place * ROW}px` },
      el("span", { className: `mark ${kind}` }, MARKS[kind]), el("span", {}, group.question || "(no question)"),
      el("small", {}, `${run}step ${group.step} · ${plural(rollout.queries.length, "query", "queries")} · ${rollout.answer ?? rollout.status.replaceAll("_", " ")}`));
    node.onclick = () => { choose(index); if (innerWidth <= 760) byId("rollout").scrollIntoView(); };
    return node;
  }

  function choose(index) {
    chosen = index ?? -1;
    showRows();
    reveal();
    showRollout();
  }

  function reveal() {
    const list = byId("list"), top = shown.indexOf(chosen) * ROW;
    if (top < list.scrollTop) list.scrollTop = Math.max(0, top);
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    showRows();
  }

  function move(by) {
    page.tab("viewer");
    const next = shown[shown.indexOf(chosen) + by];
    if (next !== undefined) choose(next);
  }

  function moveGroup(by) {
    page.tab("viewer");
    const group = (place) => rollouts[shown[place]]?.group;
    let place = shown.indexOf(chosen);
    while (group(place) !== undefined && group(place) === rollouts[chosen].group) place += by;
    if (group(place) === undefined) return;
    while (by < 0 && group(place - 1) === group(place)) place -= 1;
    choose(shown[place]);
  }

  // The chosen rollout

  function showRollout() {
    const rollout = rollouts[chosen], view = byId("rollout");
    view.scrollTop = 0;
    if (!rollout) {
      view.replaceChildren(el("p", { className: "empty" }, rollouts.length ? "No rollout fits the filters." : "No trajectory was recorded."));
      return;
    }
    const group = groups[rollout.group], kind = outcome(rollout);
    const chip = (name, value, className = "") => el("span", { className: `chip ${className}` }, `${name} `, el("b", {}, value));
    const chips = [chip(MARKS[kind], { correct: "exact match", partial: "F1 above 0", wrong: "F1 is 0" }[kind], kind),
      chip("EM", number(rollout.em)), chip("F1", number(rollout.f1)), chip("score", number(rollout.score)),
      chip("status", rollout.status.replaceAll("_", " ")), chip("step", group.step), chip("run", DATA.runs[group.run].name)];
    view.replaceChildren(
      el("div", { className: "title" }, el("h2", {}, group.question || "(no question)"),
        el("button", { title: "Previous (k)", onclick: () => move(-1) }, "‹"), el("button", { title: "Next (j)", onclick: () => move(1) }, "›")),
      el("div", { className: "chips" }, ...chips),
      el("div", { className: "chips" }, chip("golden:", group.golden.join(" | ")), chip("answer:", rollout.answer ?? "none")),
      el("h2", {}, `Group of ${members[rollout.group].length}`), siblings(rollout.group),
      el("h2", {}, "Response"), ...response(rollout, group),
      el("div", { className: "chips" }, ...Object.entries(rollout.more).map(([name, value]) => chip(name.replaceAll("_", " "), value))),
      el("details", { open: true }, el("summary", {}, "Hindsight block the teacher saw"), ...blocks(rollout)),
      el("details", {}, el("summary", {}, "Prompt"), ...group.prompt.map(([role, content]) =>
        el("div", { className: "text block" }, el("span", { className: "badge" }, role), text(content)))),
    );
  }

  function siblings(group) {
    return el("div", { className: "siblings" }, ...members[group].map((index) => {
      const rollout = rollouts[index], kind = outcome(rollout);
      return el("button", { "aria-current": index === chosen, onclick: () => { if (!shown.includes(index)) clearFilters(); choose(index); } },
        el("span", { className: `mark ${kind}` }, MARKS[kind]), el("span", {}, `F1 ${number(rollout.f1)}`),
        el("span", {}, rollout.answer ?? rollout.status.replaceAll("_", " ")), el("small", {}, rollout.queries.join(" ; ") || "no search"));
    }));
  }

  function clearFilters() {
    for (const id of ["filter-text", "filter-run", "filter-step", "filter-outcome"]) byId(id).value = "";
    onlyGroup = null;
    filter();
  }

  function response(rollout, group) {
    const parts = rollout.parts.map((part) => {
      const [kind, content] = part;
      if (kind === "query") return query(content, part[2], part[3]);
      if (kind === "blank") return content.includes("\n") ? el("span", { className: "break" }) : content;
      if (kind !== "documents") return el("span", { className: kind === "text" ? "text-part" : kind, title: TITLES[kind] || "" }, text(content));
      const gold = part[2] ? "documents · a golden answer is among them" : "documents";
      return el("span", { className: "documents" }, el("span", { className: "badge" }, gold), ...marked(text(content), group.golden));
    });
    const scale = el("div", { className: "scale" }, `credit −${number(credit ?? 0)}`, el("i"), `+${number(credit ?? 0)}`,
      el("span", { className: "at" }, "log teacher / student; point at a token"));
    const shaded = rollout.parts.some((part) => part[0] === "query" && part[2]);
    return [...(shaded ? [scale] : []), el("div", { className: "text" }, ...parts)];
  }

  const TITLES = {
    search: "query text that is not scored: it shares a token with a tag",
    notice: "written by the environment",
    think: "thinking",
    call: "tool call",
    result: "result of a tool",
  };

  function query(tokens, credits, divergences) {
    return el("span", { className: "query" }, ...tokens.map((token, i) => {
      const value = credits?.[i] ?? null, apart = divergences?.[i] ?? null;
      const title = value === null ? "query token"
        : `credit ${value > 0 ? "+" : ""}${number(value)}: the teacher finds it ${number(Math.exp(value))} × as likely as the student`
          + (apart === null ? "" : `\ndivergence ${number(apart)}`);
      const node = el("span", { className: "token", title }, token);
      // Also for screens that nothing can hover over.
      node.onpointerenter = node.onclick = () => document.querySelector(".scale .at")?.replaceChildren(title.replace("\n", "; "));
      if (value !== null) {
        const share = Math.round(Math.min(1, Math.abs(value) / (credit || 1)) * 70);
        node.dataset.credit = value;
        node.style.setProperty("--shade", `color-mix(in srgb, var(${value < 0 ? "--less" : "--more"}) ${share}%, var(--card))`);
      }
      return node;
    }));
  }

  /** A text with the golden answers marked. */
  function marked(content, golden) {
    const needles = golden.filter((answer) => answer.trim()).map((answer) => answer.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    if (!needles.length) return [content];
    return content.split(new RegExp(`(${needles.join("|")})`, "i")).map((piece, i) => i % 2 ? el("mark", {}, piece) : piece);
  }

  function blocks(rollout) {
    if (!rollout.blocks.length) return [el("p", { className: "empty" }, "None: α was 0 in this step, or the rollout has no query token.")];
    return rollout.blocks.map((block) => el("div", { className: "text block" },
      ...(text(block) || "(empty)").split(/\b(CORRECT|INCORRECT)\b/).map((piece, i) => i % 2 ? el("span", { className: piece }, piece) : piece)));
  }

  return { start, choose };
})();

page.start();
curves.start();
viewer.start();
page.tab(location.hash.startsWith("#rollout") ? "viewer" : "curves");
const linked = Number(location.hash.match(/^#rollout=(\d+)$/)?.[1] ?? NaN);
if (linked < DATA.viewer.rollouts.length) viewer.choose(linked);

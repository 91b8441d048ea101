// SPDX-License-Identifier: Apache-2.0
// Small tools of the page: elements, number formats, packed scores, downloads, tables, theme.
// Text from cards only ever becomes text nodes and attribute values, never markup.
window.atlasKit = (() => {
  "use strict";

  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  /** An element with properties (`class`, `data-*`, attributes, `on...` handlers) and children. */
  function el(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }

  // Numbers, written as on the rest of the page (formats.py).
  const minus = (text) => text.replace("-", "\u2212");
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);
  const whole = (value) =>
    missing(value) ? "–" : Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
  const fixed = (value, digits = 2) =>
    missing(value) ? "–" : minus(Number(value.toFixed(digits)) === 0 ? (0).toFixed(digits) : value.toFixed(digits));
  const significant = (value, digits = 3) =>
    missing(value) ? "–" : minus(String(Number(value.toPrecision(digits))));
  function pText(value, permutations) {
    if (missing(value)) return "not tested";
    if (permutations && value <= (1 / (permutations + 1)) * 1.01) return `≤ 1/${permutations + 1}`;
    return `= ${significant(value, 2)}`;
  }
  const nk = (n, k) => `n = ${whole(n)}${missing(k) ? "" : `, k = ${k}`}`;
  const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  /** The JSON in a script element, unpacked from base64 and gzip where it is packed. */
  async function readData(id) {
    const node = document.getElementById(id);
    if (node.type === "application/json") return JSON.parse(node.textContent);
    const bytes = Uint8Array.from(atob(node.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Pair scores. Digits kept of each column: matrices.py.
  const DIGITS = { v: 4, s: 4, c: 4, m: 4, t: 4, p: 5, q: 5 };

  /** One column of a block's cell from model `a` to model `b` (indices), or null. */
  function score(block, key, a, b) {
    const size = block.models.length;
    let i = block.models.indexOf(a);
    let j = block.models.indexOf(b);
    if (i < 0 || j < 0 || i === j) return null;
    let place;
    if (block.asymmetric) place = i * (size - 1) + (j < i ? j : j - 1);
    else {
      if (i > j) [i, j] = [j, i];
      place = i * size - (i * (i + 1)) / 2 + (j - i - 1);
    }
    const column = block[key];
    const value = Array.isArray(column) ? column[place] : column;
    return missing(value) ? null : value / 10 ** DIGITS[key];
  }

  /** The rows of the pair table a block was made of. */
  function blockRows(block, models) {
    const rows = [];
    block.models.forEach((a, i) =>
      block.models.forEach((b, j) => {
        if (i === j || (!block.asymmetric && j < i)) return;
        const value = score(block, "v", a, b);
        if (value === null) return;
        rows.push({
          selection: block.selection,
          metric: block.metric,
          model_a: models[a].key,
          model_b: models[b].key,
          value,
          standard_error: score(block, "s", a, b),
          null_mean: score(block, "m", a, b),
          null_quantile: score(block, "t", a, b),
          calibrated: score(block, "c", a, b),
          p_value: score(block, "p", a, b),
          q_value: score(block, "q", a, b),
          n: block.n,
          k: block.k,
          permutations: block.permutations,
        });
      }),
    );
    return rows;
  }

  // Downloads: made here, of what the page already holds.
  function download(name, type, content) {
    const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    const link = el("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  function toCsv(rows) {
    if (!rows.length) return "";
    const columns = Object.keys(rows[0]);
    // A leading = + - @ in text would be a formula to a spreadsheet.
    const field = (value) => {
      if (missing(value)) return "";
      if (typeof value !== "string") return String(value);
      const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns.join(","), ...rows.map((row) => columns.map((c) => field(row[c])).join(","))].join("\r\n") + "\r\n";
  }

  function downloadRows(name, format, rows) {
    if (format === "csv") download(`${name}.csv`, "text/csv", toCsv(rows));
    else download(`${name}.json`, "application/json", JSON.stringify(rows, null, 1));
  }

  /** A table of rows, first column as row headers. */
  function fillTable(body, rows) {
    body.replaceChildren(
      ...rows.map((cells) =>
        el(
          "tr",
          {},
          ...cells.map((cell, i) => {
            const content = cell instanceof Node ? cell : String(cell);
            if (i === 0) return el("th", { scope: "row" }, content);
            return el("td", cell instanceof Node ? {} : { class: "num" }, content);
          }),
        ),
      ),
    );
  }

  function rowsTable(rows, caption) {
    const columns = Object.keys(rows[0] ?? {});
    const body = el("tbody");
    const show = (value) => (typeof value === "number" && !Number.isInteger(value) ? significant(value, 4) : missing(value) ? "" : String(value));
    fillTable(body, rows.map((row) => columns.map((c) => show(row[c]))));
    return el(
      "table",
      {},
      el("caption", { class: "visually-hidden" }, caption),
      el("thead", {}, el("tr", {}, ...columns.map((c) => el("th", { scope: "col" }, c)))),
      body,
    );
  }

  // The page's furniture.
  function themeButton() {
    const button = $("#theme");
    const root = document.documentElement;
    const choices = ["auto", "light", "dark"];
    const show = () => {
      const now = root.dataset.theme || "auto";
      button.textContent = `Theme: ${now}`;
      button.setAttribute("aria-label", `Colour theme: ${now}. Change`);
    };
    button.addEventListener("click", () => {
      const next = choices[(choices.indexOf(root.dataset.theme || "auto") + 1) % choices.length];
      if (next === "auto") delete root.dataset.theme;
      else root.dataset.theme = next;
      try {
        localStorage.setItem("matteratlas-theme", next);
      } catch (error) {
        console.debug(error); // storage refused: the choice lasts as long as the page
      }
      show();
    });
    show();
  }

  function followSections() {
    const links = new Map($$("nav.contents a").map((a) => [a.hash.slice(1), a]));
    const seen = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
        const current = [...links.keys()].find((id) => seen.has(id));
        for (const [id, link] of links) {
          if (id === current) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
        }
      },
      { rootMargin: "-15% 0px -70% 0px" },
    );
    $$("main section").forEach((section) => observer.observe(section));
  }

  /** Fold long gap tables; a button shows the rest. */
  function foldTables() {
    for (const table of $$("table[data-limit]")) {
      const rows = $$("tbody tr", table);
      const rest = rows.slice(Number(table.dataset.limit));
      if (rest.length < 2) continue;
      const holder = table.closest(".gap-kind");
      rest.forEach((row) => row.classList.add("rest"));
      holder.classList.add("folded");
      const button = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, `Show all ${rows.length}`);
      button.addEventListener("click", () => {
        const folded = holder.classList.toggle("folded");
        button.setAttribute("aria-expanded", String(!folded));
        button.textContent = folded ? `Show all ${rows.length}` : "Show fewer";
      });
      holder.append(button);
    }
  }

  /** Sort the models (a body each) by a column, and filter them by what their rows say. */
  function modelsTable() {
    const table = $("#models-table");
    const heads = $$("thead th", table);
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = el("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (body) => {
          const cell = body.rows[0].cells[column];
          const text = cell.dataset.value ?? cell.textContent.trim();
          return head.dataset.sort === "number" ? Number(text) : text.toLowerCase();
        };
        const sorted = [...table.tBodies].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
        });
        table.append(...sorted);
      });
    });
    $("#model-filter").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const body of table.tBodies) {
        const text = body.rows[0].textContent.toLowerCase();
        body.hidden = !words.every((word) => text.includes(word));
        shown += body.hidden ? 0 : 1;
      }
      $("#model-count").textContent = plural(shown, "model");
    });
    for (const button of $$("button.copy")) {
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      });
    }
  }

  return {
    $, $$, el, whole, fixed, significant, pText, nk, plural, mean, missing, readData, score,
    blockRows, download, downloadRows, fillTable, rowsTable, themeButton, followSections,
    foldTables, modelsTable,
  };
})();

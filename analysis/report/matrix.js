// SPDX-License-Identifier: Apache-2.0
// The convergence matrix, the models it leaves out, and one pair over every metric.
window.atlasMatrix = (page) => {
  "use strict";
  const kit = window.atlasKit;
  const { $, el, whole, fixed, significant, pText, nk, plural, mean, missing, score } = kit;
  const { data, models, blocks, sources, draw, eachUnit, options, choice, title, relation, room, clamp } =
    page;

  // Convergence matrix.
  const matrixForm = $("#matrix-controls");
  const blockOf = (selection, metric) =>
    blocks
      .filter((b) => b.selection === selection && b.metric === metric)
      .sort((a, b) => b.models.length - a.models.length)[0];

  function matrixCells(block, order, calibrated) {
    const metric = data.metrics[block.metric];
    const arrow = block.asymmetric ? " → " : " and ";
    const cells = [];
    for (const a of order) {
      for (const b of order) {
        const value = score(block, "v", a, b);
        if (a === b || value === null) continue;
        const [cal, p, q] = ["c", "p", "q"].map((key) => score(block, key, a, b));
        const shown = calibrated ? cal : value;
        if (shown === null) continue;
        cells.push({
          a,
          b,
          row: models[a].key,
          column: models[b].key,
          shown,
          pair: models[a].name + arrow + models[b].name,
          value: fixed(value, 3),
          error: fixed(score(block, "s", a, b), 3),
          calibrated: fixed(cal, 3),
          null: `${fixed(score(block, "m", a, b), 3)}; ${fixed(score(block, "t", a, b), 3)}`,
          p: pText(p, block.permutations).replace("= ", ""),
          q: missing(q) ? "not tested" : significant(q, 2),
          n: whole(block.n),
          k: missing(block.k) ? "none" : String(block.k),
          relation: relation(a, b),
          faint: !missing(q) && q > data.level,
        });
      }
    }
    const values = cells.map((c) => c.shown);
    const larger = calibrated || metric.larger;
    const low = larger ? Math.min(0, ...values) : Math.min(...values);
    const high = larger ? Math.max(0.05, ...values) : Math.max(1, ...values);
    for (const cell of cells) {
      const t = (cell.shown - low) / (high - low || 1);
      cell.bright = (larger ? t : 1 - t) > 0.62;
      cell.label = order.length <= 18 ? fixed(cell.shown, 2) : "";
      if (cell.label) cell.faint = false;
    }
    return { cells, domain: [low, high], larger };
  }

  async function drawMatrix() {
    const [selection, metricName, mode, order] = ["selection", "metric", "mode", "order"].map((n) => choice(matrixForm, n));
    const block = blockOf(selection, metricName);
    const metric = data.metrics[metricName];
    const calibrated = mode === "calibrated";
    const keep = (i) => matrixForm.elements.baselines.checked || models[i].learned;
    const indices = (order === "cluster" ? block.order : block.models).filter(keep);
    const { cells, domain, larger } = matrixCells(block, indices, calibrated);
    const keys = indices.map((i) => models[i].key);
    const longest = Math.max(...keys.map((key) => key.length));
    const step = clamp(Math.floor((room("matrix") - 6.2 * Math.min(longest, 26) - 130) / keys.length), 13, 34);
    const axis = indices.map((i) => ({ id: models[i].key, modality: models[i].modality, learned: models[i].learned }));
    const name = `${calibrated ? "calibrated " : ""}${metric.label}`;
    title(
      "matrix-title",
      `${name[0].toUpperCase()}${name.slice(1)}${block.asymmetric ? ", row → column" : ""}: ${data.selections[selection].label.toLowerCase()} `,
      nk(block.n, block.k),
      plural(keys.length, "model"),
      `${whole(block.permutations)} permutations`,
    );
    describeMatrix(block, cells, calibrated, larger);
    const present = new Set(axis.map((entry) => entry.modality));
    $("#matrix-legend").replaceChildren(
      ...data.modalities.filter((m) => present.has(m.id)).map((m) => el("li", {}, chip(m), m.label)),
      ...(axis.some((entry) => !entry.learned) ? [el("li", {}, "hollow: not learned")] : []),
    );
    sources.matrix = {
      name: `${data.atlas.name}-${selection}-${metricName}`.replace(/[^\w.-]+/g, "-"),
      chart: "matrix",
      file: data.files.pairs,
      query: `selection == ${JSON.stringify(selection)} and metric == ${JSON.stringify(metricName)}`,
      rows: () => kit.blockRows(block, models),
    };
    drawPartials(selection, metricName, calibrated);
    drawPair();
    const result = await draw("matrix", { cells, axis }, (spec) => {
      spec.width = { step };
      spec.height = { step };
      eachUnit(spec, (unit) => {
        for (const channel of ["x", "y"]) {
          const encoding = unit.encoding?.[channel];
          if (!encoding?.field) continue;
          encoding.scale = { domain: keys };
          if (encoding.axis) Object.assign(encoding.axis, { labelFontSize: step < 15 ? 9.5 : 11, labelLimit: 190 });
        }
        const colour = unit.encoding?.color;
        if (colour?.field === "shown") {
          Object.assign(colour.scale, { domain, reverse: !larger });
          colour.legend.title = calibrated ? "calibrated" : larger ? "value" : "value (small: alike)";
        }
      });
    });
    result?.view?.addEventListener("click", (_, item) => {
      if (missing(item?.datum?.a)) return;
      pairForm.elements.a.value = String(item.datum.a);
      pairForm.elements.b.value = String(item.datum.b);
      drawPair();
    });
  }

  function chip(modality) {
    const paths = {
      square: "M-.8-.8H.8V.8H-.8z",
      circle: "M0-.9A.9.9 0 1 1 0 .9A.9.9 0 1 1 0-.9z",
      "triangle-up": "M0-.9L1 .8H-1z",
      "triangle-down": "M0 .9L1-.8H-1z",
      "triangle-right": "M.9 0L-.8 1V-1z",
      diamond: "M0-1L.8 0L0 1L-.8 0z",
      cross: "M-.3-.9H.3V-.3H.9V.3H.3V.9H-.3V.3H-.9V-.3H-.3z",
      stroke: "M-.9-.2H.9V.2H-.9z",
    };
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ viewBox: "-1 -1 2 2", width: 10, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", paths[modality.shape]);
    path.setAttribute("fill", modality.colour);
    svg.append(path);
    return svg;
  }

  function describeMatrix(block, cells, calibrated, larger) {
    const metric = data.metrics[block.metric];
    const caption = $("#matrix-caption");
    if (!cells.length) return void (caption.textContent = "No pair of these models was scored.");
    const unordered = block.asymmetric ? cells : cells.filter((c) => c.a < c.b);
    const values = unordered.map((c) => c.shown);
    const sorted = [...unordered].sort((x, y) => (larger ? y.shown - x.shown : x.shown - y.shown));
    const [first, last] = [sorted[0], sorted[sorted.length - 1]];
    const arrow = block.asymmetric ? " → " : " and ";
    const named = (c) => `${models[c.a].key}${arrow}${models[c.b].key} (${fixed(c.shown, 2)})`;
    const above = unordered.filter((c) => {
      const q = score(block, "q", c.a, c.b);
      return q !== null && q <= data.level;
    }).length;
    caption.textContent =
      `${metric.label[0].toUpperCase()}${metric.label.slice(1)}: ${metric.meaning}.` +
      (calibrated ? " Calibrated: 0 at the 95 % quantile of relabelled rows, 1 for identical spaces." : "") +
      ` Mean of ${plural(values.length, block.asymmetric ? "direction" : "pair")}: ${fixed(mean(values), 2)}. Most alike: ${named(first)}; least: ${named(last)}.` +
      (block.permutations ? ` ${whole(above)} of ${whole(unordered.length)} pass a false discovery rate of 5 %${cells.some((c) => c.faint) ? "; the others are marked with a dot" : ""}.` : "") +
      " Click a cell to see the pair below.";
  }

  function drawPartials(selection, metricName, calibrated) {
    const found = blocks.filter((b) => b.metric === metricName && data.selections[b.selection]?.parent === selection);
    const holder = $("#partials");
    if (!found.length) return holder.replaceChildren();
    const body = el("tbody");
    kit.fillTable(
      body,
      found.map((block) => {
        const own = models.find((m) => m.key === block.selection.split("|")[1]);
        const index = models.indexOf(own);
        const rows = kit.blockRows(block, models).filter((r) => r.model_a === own.key || r.model_b === own.key);
        const values = rows.map((r) => (calibrated ? r.calibrated : r.value)).filter((v) => v !== null);
        const partners = new Set(rows.flatMap((r) => [r.model_a, r.model_b])).size - 1;
        const worst = Math.max(...rows.map((r) => r.p_value ?? NaN));
        return [
          el("code", { class: "id", title: models[index].name }, own.key),
          whole(block.n),
          missing(block.k) ? "–" : block.k,
          whole(partners),
          values.length ? fixed(mean(values), 2) : "–",
          values.length ? `${fixed(Math.min(...values), 2)} to ${fixed(Math.max(...values), 2)}` : "–",
          pText(Number.isNaN(worst) ? null : worst, block.permutations).replace("= ", ""),
        ];
      }),
    );
    const heads = ["model", "n", "k", "partners", "mean", "range", "largest p"];
    holder.replaceChildren(
      el("h3", {}, "Models that embed too few of these structures for the matrix"),
      el("p", { class: "note" }, "Each is compared with the matrix's models on the rows it has, at its own n: not comparable with the matrix or with each other."),
      el(
        "div",
        { class: "scroll", role: "region", tabindex: "0", "aria-label": "Models with low coverage" },
        el("table", {}, el("caption", { class: "visually-hidden" }, "Models with low coverage"), el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", class: i ? "num" : null }, h)))), body),
      ),
    );
  }

  // One pair.
  const pairForm = $("#pair-controls");
  function drawPair() {
    const [a, b] = [Number(choice(pairForm, "a")), Number(choice(pairForm, "b"))];
    const selection = choice(matrixForm, "selection");
    const near = blocks.filter(
      (block) =>
        block.selection === selection ||
        [models[a]?.key, models[b]?.key].some((key) => block.selection === `${selection}|${key}`),
    );
    const rows = [];
    for (const [name, metric] of Object.entries(data.metrics)) {
      for (const [from, to] of metric.symmetric ? [[a, b]] : [[a, b], [b, a]]) {
        const block = near.find((c) => c.metric === name && score(c, "v", from, to) !== null);
        if (!block) continue;
        const get = (key) => score(block, key, from, to);
        const label = metric.symmetric ? metric.label : `${metric.label}, ${models[from].key} → ${models[to].key}`;
        rows.push([
          label,
          ...["v", "s", "m", "t", "c"].map((key) => fixed(get(key), 3)),
          pText(get("p"), block.permutations).replace("= ", ""),
          significant(get("q"), 2),
          whole(block.n),
          missing(block.k) ? "–" : block.k,
        ]);
      }
    }
    const table = $("#pair-table");
    const subject = models[a] && models[b] ? `${models[a].name} and ${models[b].name}, ${data.selections[selection].label.toLowerCase()}` : "";
    $("caption", table).textContent =
      a === b ? "Choose two different models." : rows.length ? `${subject} (${relation(a, b)})` : `${subject}: not compared here`;
    kit.fillTable($("tbody", table), a === b ? [] : rows);
  }

  function startMatrix() {
    if (!matrixForm) return;
    const scored = new Set(blocks.map((b) => b.selection));
    const group = { kind: "all of a kind", stratum: "strata" };
    const entries = Object.entries(data.selections).filter(([name, s]) => s.role in group && scored.has(name));
    const rank = (name) => ["crystals", "molecules", "proteins"].indexOf(name);
    entries.sort(([x, s], [y, t]) => (s.role === t.role ? (s.role === "kind" ? rank(x) - rank(y) : 0) : s.role === "kind" ? -1 : 1));
    options(matrixForm.elements.selection, entries.map(([name, s]) => [name, `${s.label} (n = ${s.n})`, group[s.role]]));
    const metrics = () => {
      const here = new Set(blocks.filter((b) => b.selection === choice(matrixForm, "selection")).map((b) => b.metric));
      options(matrixForm.elements.metric, Object.entries(data.metrics).filter(([name]) => here.has(name)).map(([name, m]) => [name, m.label]));
    };
    metrics();
    const everyone = models.map((m, i) => [String(i), m.key, m.learned ? "learned" : "baselines"]);
    options(pairForm.elements.a, everyone);
    options(pairForm.elements.b, everyone);
    const first = blockOf(choice(matrixForm, "selection"), choice(matrixForm, "metric"));
    pairForm.elements.a.value = String(first.models[0]);
    pairForm.elements.b.value = String(first.models[1]);
    matrixForm.addEventListener("change", (event) => {
      if (event.target.name === "selection") metrics();
      drawMatrix();
    });
    pairForm.addEventListener("change", drawPair);
    return drawMatrix();
  }

  return { name: "matrix", start: startMatrix, draw: drawMatrix };
};

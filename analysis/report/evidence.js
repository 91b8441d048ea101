// SPDX-License-Identifier: Apache-2.0
// Performance against alignment, the tree of models, and the plane of information imbalance.
window.atlasEvidence = (page) => {
  "use strict";
  const { $, whole, fixed, significant, nk, plural, missing, score } = window.atlasKit;
  const { data, models, blocks, performance, trees, sources, draw, options, choice, title, room, clamp, presentOnly, eachUnit } = page;
  const modality = (i) => data.modalities.find((m) => m.id === models[i].modality)?.label ?? models[i].modality;
  const words = (text) => text.replaceAll("_", " ");
  const METHODS = { own_energy: "the model's own energies", probe: "energies read off its embedding" };

  // Performance.
  const performanceForm = $("#performance-controls");

  async function drawPerformance() {
    const [place, method, metric] = ["set", "method", "metric"].map((n) => choice(performanceForm, n));
    const own = performance.points.filter((p) => `${p.set}/${p.label}` === place && p.method === method && p.metric === metric);
    const label = data.metrics[metric]?.label ?? metric;
    const rows = own.map((p) => ({
      model: models[p.i].key,
      family: models[p.i].family,
      modality: modality(p.i),
      error: p.e,
      error_low: Math.max(p.e - (p.es ?? 0), p.e / 10),
      error_high: p.e + (p.es ?? 0),
      alignment: p.a,
      low: p.a - (p.as ?? 0),
      high: p.a + (p.as ?? 0),
      error_text: `${significant(p.e)} ± ${significant(p.es, 2)} eV`,
      baseline: `${significant(p.b)} eV`,
      alignment_text: `${fixed(p.a, 3)} ± ${fixed(p.as, 3)}`,
      n: whole(p.n),
    }));
    const reference = own.length && !missing(own[0].r) ? models[own[0].r].key : "the best performer";
    title("performance-title", `Error against ${label} with ${reference}, ${words(place.replace("/", ": "))} `, rows.length ? nk(own[0].n, null) : "", plural(rows.length, "model"));
    const found = performance.correlations.filter((c) => `${c.set}/${c.label}` === place && c.method === method && c.metric === metric);
    const told = found.map((c) => `${{ all: "over all models", across: "across families", within: "within families" }[c.scope]} ${fixed(c.v, 2)}${missing(c.low) ? "" : ` (95 % ${fixed(c.low, 2)} to ${fixed(c.high, 2)})`}, ${plural(c.models, "model")}`);
    $("#performance-caption").textContent =
      (told.length ? `Spearman correlation of error and alignment: ${told.join("; ")}. ` : "Too few models for a correlation. ") +
      "Below 0: the smaller the error, the closer to the best. Models share data and architectures, so read intervals with care. Bars: ± 1 standard error.";
    sources.performance = {
      name: `${data.atlas.name}-performance-${place}-${metric}`.replace(/[^\w.-]+/g, "-"),
      chart: "performance",
      file: data.files.performance,
      query: `label == ${JSON.stringify(place.split("/")[1])} and method == ${JSON.stringify(method)} and metric == ${JSON.stringify(metric)}`,
      rows: () => own.map((p) => ({ set: p.set, label: p.label, method, metric, model: models[p.i].key, mae: p.e, mae_standard_error: p.es, alignment: p.a, alignment_standard_error: p.as, baseline: p.b, n: p.n })),
    };
    await draw("performance", { points: rows }, (spec) => {
      spec.width = clamp(room("performance") - 260, 260, 640);
      spec.height = 360;
      presentOnly(spec, "modality", new Set(rows.map((r) => r.modality)));
      eachUnit(spec, (unit) => {
        if (unit.encoding?.x?.type === "quantitative") unit.encoding.x.title = "mean absolute error without composition (eV)";
        if (unit.encoding?.y?.type === "quantitative") unit.encoding.y.title = `calibrated ${label} with ${reference}`;
      });
    });
  }

  function startPerformance() {
    if (!performanceForm) return;
    const { points } = performance;
    const places = [...new Set(points.map((p) => `${p.set}/${p.label}`))];
    options(performanceForm.elements.set, places.map((p) => [p, words(p.replace("/", ": "))]));
    options(performanceForm.elements.method, Object.entries(METHODS).filter(([m]) => points.some((p) => p.method === m)));
    const scored = new Set(points.map((p) => p.metric));
    options(performanceForm.elements.metric, Object.entries(data.metrics).filter(([name]) => scored.has(name)).map(([name, m]) => [name, m.label]));
    performanceForm.addEventListener("change", drawPerformance);
    return drawPerformance();
  }

  // Tree.
  const treeForm = $("#tree-controls");

  async function drawTree() {
    const [selection, metric] = ["selection", "metric"].map((n) => choice(treeForm, n));
    const tree = trees.find((t) => t.selection === selection && t.metric === metric) ?? trees[0];
    const segments = tree.segments.map(([x, y, x2, y2]) => ({ x, y, x2, y2 }));
    const leaves = tree.segments.filter((s) => s[4] !== null).map(([x, y, x2, y2, i]) => ({ x, y, x2, y2, model: models[i].key, modality: modality(i) }));
    const label = data.metrics[tree.metric]?.label ?? tree.metric;
    title("tree-title", `Tree of models by ${label}, ${data.selections[tree.selection].label.toLowerCase()} `, nk(tree.n, tree.k), plural(leaves.length, "model"));
    $("#tree-caption").textContent = "Models whose alignment with all others is alike hang together: square roots of Jensen-Shannon divergences of alignment profiles, joined by neighbour joining. Left is where the last two branches met, not an origin.";
    sources.tree = {
      name: `${data.atlas.name}-tree-${tree.selection}-${tree.metric}`,
      chart: "tree",
      file: data.files.pairs,
      query: `selection == ${JSON.stringify(tree.selection)} and metric == ${JSON.stringify(tree.metric)}`,
      rows: () => tree.segments.map(([x, y, x2, y2, i]) => ({ model: i === null ? "" : models[i].key, x, y, x2, y2 })),
    };
    await draw("tree", { segments, leaves }, (spec) => {
      spec.width = clamp(room("tree") - 320, 260, 640);
      spec.height = Math.max(120, 15 * leaves.length);
      presentOnly(spec, "modality", new Set(leaves.map((l) => l.modality)));
    });
  }

  function startTree() {
    if (!treeForm) return;
    options(treeForm.elements.selection, [...new Set(trees.map((t) => t.selection))].map((s) => [s, data.selections[s].label]));
    options(treeForm.elements.metric, [...new Set(trees.map((t) => t.metric))].map((m) => [m, data.metrics[m]?.label ?? m]));
    treeForm.addEventListener("change", drawTree);
    return drawTree();
  }

  // Information imbalance.
  const planeForm = $("#plane-controls");
  const SHADES = ["cknna", "mutual_knn", "distance_correlation", "linear_cka"];
  const planes = blocks.filter((b) => b.metric === "information_imbalance" && b.asymmetric);
  const blockOf = (selection, metric) => blocks.find((b) => b.selection === selection && b.metric === metric);

  async function drawPlane() {
    const [selection, colour] = ["selection", "colour"].map((n) => choice(planeForm, n));
    const block = planes.find((b) => b.selection === selection) ?? planes[0];
    const shades = blockOf(block.selection, colour);
    const rows = [];
    block.models.forEach((a, i) =>
      block.models.slice(i + 1).forEach((b) => {
        if (!models[a].learned || !models[b].learned) return;
        const [there, back] = [score(block, "v", a, b), score(block, "v", b, a)];
        if (missing(there) || missing(back)) return;
        const shade = shades ? score(shades, "v", a, b) : null;
        rows.push({ pair: `${models[a].key} and ${models[b].key}`, there, back, shade, there_text: fixed(there, 3), back_text: fixed(back, 3), shade_text: `${data.metrics[colour]?.label ?? colour} ${fixed(shade, 3)}`, n: whole(block.n) });
      }),
    );
    title("plane-title", `Information imbalance, ${data.selections[block.selection].label.toLowerCase()} `, nk(block.n, block.k), plural(rows.length, "pair"));
    $("#plane-caption").textContent = "0, 0: either model's nearest structure is near in the other too. 1, 1: neither says anything of the other. Off the line: one holds what the other lacks. Learned models only.";
    sources.plane = {
      name: `${data.atlas.name}-imbalance-${block.selection}`.replace(/[^\w.-]+/g, "-"),
      chart: "plane",
      file: data.files.pairs,
      query: `selection == ${JSON.stringify(block.selection)} and metric == "information_imbalance"`,
      rows: () => rows.map(({ pair, there, back, shade }) => ({ pair, there, back, [colour]: shade })),
    };
    const high = Math.max(0.1, ...rows.flatMap((r) => [r.there, r.back]));
    await draw("plane", { points: rows, diagonal: [{ at: 0, to: 0 }, { at: high, to: high }] }, (spec) => {
      spec.width = spec.height = clamp(room("plane") - 160, 220, 420);
      eachUnit(spec, (unit) => {
        if (unit.encoding?.color?.field === "shade") unit.encoding.color.title = data.metrics[colour]?.label ?? colour;
      });
    });
  }

  function startPlane() {
    if (!planeForm) return;
    if (!planes.length) {
      planeForm.hidden = true;
      $("#plane-caption").textContent = "Information imbalance was not scored.";
      return;
    }
    const main = ["crystals", "molecules", "proteins"];
    const names = planes.map((b) => b.selection).filter((s) => data.selections[s].role !== "partial");
    names.sort((a, b) => (main.indexOf(a) + 1 || 9) - (main.indexOf(b) + 1 || 9));
    options(planeForm.elements.selection, names.map((s) => [s, data.selections[s].label]));
    options(planeForm.elements.colour, SHADES.filter((m) => data.metrics[m]).map((m) => [m, data.metrics[m].label]));
    planeForm.addEventListener("change", drawPlane);
    return drawPlane();
  }

  return [
    { name: "performance", start: startPerformance, draw: drawPerformance },
    { name: "tree", start: startTree, draw: drawTree },
    { name: "plane", start: startPlane, draw: drawPlane },
  ];
};

// SPDX-License-Identifier: Apache-2.0
// In against out of distribution, intrinsic dimension, and the periodic table.
window.atlasCharts = (page) => {
  "use strict";
  const kit = window.atlasKit;
  const { $, el, whole, fixed, significant, pText, nk, plural, mean, missing } = kit;
  const { data, models, points, sources, draw, eachUnit, options, choice, title, room, clamp, presentOnly } =
    page;

  // In against out of distribution.
  const contrastForm = $("#contrast-controls");
  const spatial = (i) => models[i].modality === "atoms3d" && models[i].learned && models[i].contextual;

  async function drawContrast() {
    const [contrast, metricName, mode] = ["contrast", "metric", "mode"].map((n) => choice(contrastForm, n));
    const key = mode === "calibrated" ? "c" : "v";
    const metric = data.metrics[metricName];
    const all = points.filter((p) => p.contrast === contrast && p.metric === metricName);
    const only = contrastForm.elements.spatial.checked;
    const chosen = all.filter((p) => !missing(p.in[key]) && !missing(p.out[key]) && (!only || (spatial(p.a) && spatial(p.b))));
    const rows = chosen.map((p) => {
      const arrow = metric.symmetric ? " and " : " → ";
      const error = (side) => (key === "c" ? side.e : side.s) ?? 0;
      const text = (side) => `${fixed(side.v, 3)} ± ${fixed(side.s, 3)} (calibrated ${fixed(side.c, 3)})`;
      return {
        pair: models[p.a].name + arrow + models[p.b].name,
        relation: p.relation,
        inside: p.in[key],
        outside: p.out[key],
        inside_low: p.in[key] - error(p.in),
        inside_high: p.in[key] + error(p.in),
        outside_low: p.out[key] - error(p.out),
        outside_high: p.out[key] + error(p.out),
        in_text: text(p.in),
        out_text: text(p.out),
        change: `${p.out[key] > p.in[key] ? "+" : ""}${fixed(p.out[key] - p.in[key], 3)}`,
        in_p: pText(p.in.p, p.permutations).replace("= ", ""),
        out_p: pText(p.out.p, p.permutations).replace("= ", ""),
        n: `${whole(p.n)} on either side (${p.in.draws} and ${plural(p.out.draws, "draw")})`,
        k: missing(p.k) ? "none" : String(p.k),
        which: data.contrasts[p.contrast],
      };
    });
    const sizes = chosen.map((p) => p.n);
    const label = `${key === "c" ? "calibrated " : ""}${metric.label}`;
    const n = sizes.length ? (Math.min(...sizes) === Math.max(...sizes) ? nk(sizes[0], chosen[0].k) : `n = ${Math.min(...sizes)} to ${Math.max(...sizes)}, equal within a pair${missing(chosen[0].k) ? "" : `, k = ${chosen[0].k}`}`) : "";
    title("contrast-title", `${label[0].toUpperCase()}${label.slice(1)}, ${data.contrasts[contrast]} `, n, plural(rows.length, "pair"));
    const fell = rows.filter((r) => (metric.larger || key === "c" ? r.outside < r.inside : r.outside > r.inside)).length;
    $("#contrast-caption").textContent = rows.length
      ? `Mean ${fixed(mean(rows.map((r) => r.inside)), 2)} in, ${fixed(mean(rows.map((r) => r.outside)), 2)} out of distribution; ${whole(fell)} of ${plural(rows.length, "pair")} agree less outside. Bars: ± 1 standard error; a side drawn several times is the mean of its draws.`
      : "No pair of these models was scored on both sides.";
    const members = [...new Set(chosen.flatMap((p) => [p.a, p.b]))].sort((x, y) => x - y);
    $("#contrast-table caption").textContent = `By model: mean over its partners of ${label}`;
    const perModel = members.map((i) => {
      const own = chosen.filter((p) => p.a === i || p.b === i);
      const [inside, outside] = ["in", "out"].map((side) => mean(own.map((p) => p[side][key])));
      const ns = own.map((p) => p.n);
      const partners = new Set(own.flatMap((p) => [p.a, p.b])).size - 1;
      return { i, partners, inside, outside, n: [Math.min(...ns), Math.max(...ns)] };
    });
    perModel.sort((x, y) => x.outside - x.inside - (y.outside - y.inside));
    kit.fillTable(
      $("#contrast-table tbody"),
      perModel.map((m) => [
        el("code", { class: "id", title: models[m.i].name }, models[m.i].key),
        whole(m.partners),
        fixed(m.inside, 2),
        fixed(m.outside, 2),
        `${m.outside > m.inside ? "+" : ""}${fixed(m.outside - m.inside, 2)}`,
        m.n[0] === m.n[1] ? whole(m.n[0]) : `${whole(m.n[0])}–${whole(m.n[1])}`,
      ]),
    );
    sources.contrast = {
      name: `${data.atlas.name}-${contrast}-${metricName}`.replace(/[^\w.-]+/g, "-"),
      chart: "contrast",
      file: data.files.pairs,
      query: `selection.str.startswith(${JSON.stringify(`${contrast}|`)}) and metric == ${JSON.stringify(metricName)}`,
      rows: () =>
        chosen.map((p) => ({
          contrast: p.contrast,
          metric: p.metric,
          model_a: models[p.a].key,
          model_b: models[p.b].key,
          relation: p.relation,
          n: p.n,
          k: p.k,
          in_value: p.in.v,
          in_standard_error: p.in.s,
          in_calibrated: p.in.c,
          in_p_value: p.in.p,
          in_draws: p.in.draws,
          out_value: p.out.v,
          out_standard_error: p.out.s,
          out_calibrated: p.out.c,
          out_p_value: p.out.p,
          out_draws: p.out.draws,
        })),
    };
    const ends = rows.flatMap((r) => [r.inside_high, r.outside_high, r.inside_low, r.outside_low]);
    const [low, high] = [Math.min(0, ...ends), Math.max(0.05, ...ends)];
    const side = clamp(room("contrast") - 90, 220, 400);
    await draw("contrast", { points: rows, diagonal: [{ at: low, to: low }, { at: high, to: high }] }, (spec) => {
      spec.width = side;
      spec.height = side;
      presentOnly(spec, "relation", new Set(rows.map((r) => r.relation)));
      eachUnit(spec, (unit) => {
        for (const channel of ["x", "y"]) {
          const encoding = unit.encoding?.[channel];
          if (encoding?.type === "quantitative") encoding.scale = { ...encoding.scale, domain: [low, high], nice: false };
          if (encoding?.title) encoding.title = `${label}, ${channel === "x" ? "in" : "out of"} distribution`;
        }
      });
    });
  }

  function startContrast() {
    if (!contrastForm) return;
    const here = [...new Set(points.map((p) => p.contrast))];
    const count = (c) => points.filter((p) => p.contrast === c && spatial(p.a) && spatial(p.b)).length;
    const like = (c) => (new Set([...c.matchAll(/:(\w+)/g)].map((m) => m[1])).size === 1 ? 1 : 0);
    here.sort((x, y) => like(y) - like(x) || count(y) - count(x));
    options(contrastForm.elements.contrast, here.map((c) => [c, data.contrasts[c], like(c) ? "like kinds" : "across kinds"]));
    const scored = new Set(points.map((p) => p.metric));
    options(contrastForm.elements.metric, Object.entries(data.metrics).filter(([name]) => scored.has(name)).map(([name, m]) => [name, m.label]));
    contrastForm.elements.spatial.checked = points.some((p) => spatial(p.a) && spatial(p.b));
    contrastForm.addEventListener("change", drawContrast);
    return drawContrast();
  }

  // Intrinsic dimension.
  const dimensionForm = $("#dimension-controls");
  const KINDS = ["crystals", "molecules", "proteins"];

  async function drawDimension() {
    const [selection, metric, order] = ["selection", "metric", "order"].map((n) => choice(dimensionForm, n));
    const scale = data.scales[metric];
    const chosen = data.dimensions.filter((d) => d.metric === metric && !missing(d.v) && (selection ? d.selection === selection : KINDS.includes(d.selection)));
    const rows = chosen.map((d) => ({
      model: models[d.i].key,
      value: d.v,
      low: Math.max(d.v - (d.s ?? 0), d.v / 10),
      high: d.v + (d.s ?? 0),
      kind: KINDS.includes(d.selection) ? d.selection : "one stratum",
      text: significant(d.v, 3),
      error: significant(d.s, 2),
      width: whole(models[d.i].width),
      selection: data.selections[d.selection].label,
      n: whole(d.n),
      estimator: scale.label,
    }));
    const indices = [...new Set(chosen.map((d) => d.i))];
    const average = (i) => mean(chosen.filter((d) => d.i === i).map((d) => d.v));
    indices.sort((x, y) => (order === "value" ? average(y) - average(x) : x - y));
    const sizes = [...new Map(chosen.map((d) => [d.selection, d.n]))].map(([name, n]) => `${data.selections[name].label}: n = ${whole(n)}`);
    title("dimension-figure-title", `${scale.label[0].toUpperCase()}${scale.label.slice(1)} `, ...sizes);
    $("#dimension-caption").textContent = `${scale.label[0].toUpperCase()}${scale.label.slice(1)}: ${scale.meaning}. Bars: ± 1 standard error. Logarithmic scale.`;
    sources.dimension = {
      name: `${data.atlas.name}-${metric}`,
      chart: "dimension",
      file: data.files.models,
      query: `metric == ${JSON.stringify(metric)} and selection in ${JSON.stringify([...new Set(chosen.map((d) => d.selection))])}`,
      rows: () => chosen.map((d) => ({ model: models[d.i].key, selection: d.selection, metric, value: d.v, standard_error: d.s, n: d.n, width: models[d.i].width })),
    };
    const values = rows.flatMap((r) => [r.low, r.high]).filter((v) => v > 0);
    const domain = values.length ? [Math.min(...values) * 0.9, Math.max(...values) * 1.12] : [1, 10];
    const keys = indices.map((i) => models[i].key);
    await draw("dimension", { dims: rows }, (spec) => {
      spec.width = clamp(room("dimension") - 6.4 * Math.min(28, Math.max(0, ...keys.map((k) => k.length))) - 40, 200, 760);
      spec.height = { step: 19 };
      presentOnly(spec, "kind", new Set(rows.map((r) => r.kind)));
      eachUnit(spec, (unit) => {
        const { x, y } = unit.encoding ?? {};
        if (x?.type === "quantitative") x.scale = { ...x.scale, domain };
        if (x?.title) x.title = scale.label;
        if (y?.field) y.scale = { domain: keys };
      });
    });
  }

  function startDimension() {
    if (!dimensionForm) return;
    const scored = new Set(data.dimensions.map((d) => d.selection));
    options(dimensionForm.elements.metric, Object.entries(data.scales).filter(([m]) => data.dimensions.some((d) => d.metric === m)).map(([m, s]) => [m, s.label]));
    options(dimensionForm.elements.selection, [
      ["", "every kind"],
      ...Object.entries(data.selections).filter(([name, s]) => scored.has(name) && s.role === "stratum").map(([name, s]) => [name, `${s.label} (n = ${s.n})`]),
    ]);
    dimensionForm.addEventListener("change", drawDimension);
    return drawDimension();
  }

  // Periodic table.
  const elementsForm = $("#elements-controls");

  async function drawElements() {
    const share = choice(elementsForm, "show") === "share";
    const spatialCount = models.filter((_, i) => spatial(i)).length;
    const held = data.elements.filter((e) => e.structures > 0);
    const top = Math.max(1, ...held.map((e) => e.structures));
    const rows = data.elements.map((e) => {
      const shown = e.structures === 0 ? null : share ? e.share : e.structures;
      const t = shown === null ? 0 : share ? shown : Math.log(shown) / Math.log(Math.max(2, top));
      return {
        column: e.column,
        row: e.row,
        symbol: e.symbol,
        name: `${e.symbol} (${e.z})`,
        shown,
        ink: missing(shown) ? "currentColor" : t > 0.55 ? "#111" : "#fff",
        strength: missing(shown) ? 0.45 : 1,
        count: missing(shown) ? "" : share ? `${fixed(100 * shown, 0)} %` : whole(shown),
        structures_text: whole(e.structures),
        share_text: missing(e.share) ? "–" : `${fixed(100 * e.share, 0)} %`,
        unable: e.unable.length ? e.unable.slice(0, 6).join(", ") + (e.unable.length > 6 ? ", …" : "") : "none",
      };
    });
    title("elements-title", share ? "Share of structures embedded by learned 3D models " : "Structures by element ", `${whole(held.length)} elements`, share ? plural(spatialCount, "model") : null);
    const few = (symbols) => (symbols.length > 24 ? `${symbols.length} elements` : symbols.join(", ") || "none");
    const rare = held.filter((e) => e.structures < 10).map((e) => e.symbol);
    const refused = held.filter((e) => e.share !== null && e.share < 0.5).map((e) => e.symbol);
    $("#elements-caption").textContent =
      `Molecules and crystals; outlined elements occur in none. In fewer than 10 structures: ${few(rare)}.` +
      (spatialCount ? ` Embedded less than half the time by learned 3D models: ${few(refused)}.` : "");
    sources.elements = {
      name: `${data.atlas.name}-elements`,
      chart: "elements",
      file: "structures/<set>.parquet, joined to the reasons of each model's rows",
      query: null,
      rows: () => data.elements.map((e) => ({ z: e.z, symbol: e.symbol, structures: e.structures, embedded_share: e.share, models_that_embed_none: e.unable.join(" ") })),
    };
    const step = clamp(Math.floor((room("elements") - 20) / 18), 28, 46);
    await draw("elements", { elements: rows }, (spec) => {
      spec.width = 18 * step;
      spec.height = 9.3 * step;
      eachUnit(spec, (unit) => {
        const colour = unit.encoding?.color;
        if (colour?.field === "shown") {
          Object.assign(colour.scale, share ? { domain: [0, 1] } : { type: "log", domain: [1, Math.max(2, top)] });
          colour.legend.title = share ? "share embedded" : "structures";
          colour.legend.format = share ? "%" : ",.0f";
          if (!share) colour.legend.values = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter((v) => v <= top);
        }
        if (unit.encoding?.text?.field === "symbol") Object.assign(unit.mark, { fontSize: clamp(step * 0.34, 10, 14), dy: step < 36 ? 0 : -3 });
        if (unit.encoding?.text?.field === "count") unit.mark.opacity = step < 36 ? 0 : 0.85;
      });
    });
  }

  function startElements() {
    elementsForm.addEventListener("change", drawElements);
    return drawElements();
  }

  return [
    { name: "contrast", start: startContrast, draw: drawContrast },
    { name: "dimension", start: startDimension, draw: drawDimension },
    { name: "elements", start: startElements, draw: drawElements },
  ];
};

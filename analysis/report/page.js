// SPDX-License-Identifier: Apache-2.0
// The page: reads the inlined scores, draws the figures, and shows the data behind each.
(async () => {
  "use strict";
  const kit = window.atlasKit;
  const { $, $$, el, plural } = kit;

  kit.themeButton();
  kit.followSections();
  kit.foldTables();
  kit.modelsTable();

  const data = await kit.readData("data");
  const { blocks, points, performance, trees } = await kit.readData("pairs");
  const models = data.models;
  const calibrated = blocks.some((b) => [b.c].flat().some((value) => value !== null));
  if (!calibrated) {
    // No null was drawn: there are raw values only.
    for (const input of $$('input[name="mode"]')) {
      input.checked = input.value === "raw";
      input.disabled = input.value !== "raw";
    }
  }
  const sources = {}; // figure -> what its data disclosure shows
  const views = {}; // chart -> what vega-embed returned

  // Drawing.
  async function draw(name, datasets, change = () => {}) {
    const holder = $(`#chart-${name}`);
    const specification = structuredClone(data.specs[name]);
    specification.datasets = datasets;
    change(specification);
    const turn = (draw.turns[name] = (draw.turns[name] || 0) + 1);
    const place = el("div");
    const result = await window.vegaEmbed(place, specification, {
      actions: false,
      renderer: "svg",
      ast: true, // expressions are interpreted: the page's policy allows no code made from text
      tooltip: { disableDefaultStyle: true, offsetX: 14, offsetY: 14 },
    });
    // The figure's title and caption say it; the table behind it has the numbers.
    $("svg", place)?.setAttribute("aria-hidden", "true");
    if (turn !== draw.turns[name]) return result.finalize(); // a later choice overtook this one
    views[name]?.finalize();
    views[name] = result;
    holder.replaceChildren(place);
    return result;
  }
  draw.turns = {};

  const room = (name) => Math.max(280, $(`#chart-${name}`).clientWidth || 900);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const options = (select, entries) => {
    const before = select.value;
    const option = ([value, label]) => el("option", { value }, label);
    const groups = new Map();
    for (const [value, label, group] of entries) {
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(option([value, label]));
    }
    select.replaceChildren(
      ...[...groups].flatMap(([group, found]) => (group && groups.size > 1 ? [el("optgroup", { label: group }, ...found)] : found)),
    );
    if (entries.some(([value]) => value === before)) select.value = before;
  };
  const choice = (form, name) => form.elements[name].value;

  /** Heading of a figure: what it shows, and in a badge n, k and the like. */
  function title(id, text, ...badges) {
    $(`#${id}`).replaceChildren(text, ...badges.filter(Boolean).map((badge) => el("small", {}, badge)));
  }

  function relation(a, b) {
    if (models[a].family === models[b].family) return "same family";
    return models[a].training.some((set) => models[b].training.includes(set)) ? "shared training set" : "other family and data";
  }

  function eachUnit(spec, visit) {
    visit(spec);
    for (const layer of spec.layer ?? []) eachUnit(layer, visit);
  }

  /** Keep of a category's colours and shapes those that occur, each its own. */
  function presentOnly(spec, field, values) {
    eachUnit(spec, (unit) => {
      for (const encoding of Object.values(unit.encoding ?? {})) {
        if (encoding?.field !== field || !encoding.scale?.range) continue;
        const { domain, range } = encoding.scale;
        const kept = domain.map((name, i) => [name, range[i]]).filter(([name]) => values.has(name));
        encoding.scale = { ...encoding.scale, domain: kept.map(([name]) => name), range: kept.map(([, style]) => style) };
      }
    });
  }

  const page = {
    data, models, blocks, points, performance, trees, sources, draw, eachUnit, options, choice, title, relation, room, clamp,
    presentOnly,
  };

  // Data behind a figure.
  function fillSource(details) {
    const source = sources[details.dataset.figure];
    const body = $(".source-body", details);
    if (!source) return body.replaceChildren(el("p", {}, "Nothing is shown."));
    const rows = source.rows();
    const code = `atlas.table(${JSON.stringify(source.file)})` + (source.query ? `.query(${JSON.stringify(source.query)}, engine="python")` : "");
    const button = (label, action) => el("button", { type: "button", onclick: action }, label);
    body.replaceChildren(
      el("p", {}, `${plural(rows.length, "row")} of `, el("code", {}, source.file), source.query ? ", where " : "", source.query ? el("code", {}, source.query) : ""),
      source.query ? el("pre", { class: "code", tabindex: "0" }, el("code", {}, code)) : "",
      el(
        "div",
        { class: "buttons" },
        button("CSV", () => kit.downloadRows(source.name, "csv", rows)),
        button("JSON", () => kit.downloadRows(source.name, "json", rows)),
        button("SVG", () => exportChart(source, "svg")),
        button("PNG", () => exportChart(source, "png")),
      ),
      el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Rows behind the figure: ${details.dataset.figure}` }, kit.rowsTable(rows, "Rows behind the figure")),
    );
  }

  async function exportChart(source, format) {
    const { view } = views[source.chart];
    view.background("white");
    try {
      if (format === "svg") kit.download(`${source.name}.svg`, "image/svg+xml", await view.toSVG());
      else (await view.toCanvas(3)).toBlob((blob) => kit.download(`${source.name}.png`, "image/png", blob));
    } finally {
      view.background(null);
    }
  }

  for (const details of $$("details.source[data-figure]")) {
    details.addEventListener("toggle", () => details.open && fillSource(details));
    $(`#${details.dataset.figure}-controls`)?.addEventListener("change", () => setTimeout(() => details.open && fillSource(details)));
  }
  for (const button of $$("button[data-download]")) {
    button.addEventListener("click", () =>
      kit.downloadRows(`${data.atlas.name}-pairs`, button.dataset.format, blocks.flatMap((b) => kit.blockRows(b, models))),
    );
  }

  const figures = [window.atlasMatrix(page), ...window.atlasCharts(page), ...window.atlasEvidence(page), window.atlasMap(page)];
  for (const figure of figures) await figure.start();
  await window.atlasLinks.start();
  document.documentElement.dataset.ready = "true";

  let width = window.innerWidth;
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      if (Math.abs(window.innerWidth - width) < 40) return;
      width = window.innerWidth;
      for (const figure of figures) if (views[figure.name]) await figure.draw();
    }, 250);
  });
})();

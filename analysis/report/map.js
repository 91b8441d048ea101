// SPDX-License-Identifier: Apache-2.0
// The map of structures: a projection to look at, pick from and draw a loop around; the picked
// structure and its nearest ones as two models see them.
window.atlasMap = (page) => {
  "use strict";
  const { $, el, fixed, plural, downloadRows } = window.atlasKit;
  const { data, models } = page;
  const SVG = "http://www.w3.org/2000/svg";
  const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A900", "#5B4B8A", "#8B8B8B"];
  const form = $("#map-controls");
  let maps = [];
  let state = { picked: 0, chosen: [] };

  const shape = (tag, properties) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
    return node;
  };
  const now = () => maps.find((m) => m.kind === form.elements.kind.value) ?? maps[0];
  const seen = (name) => now().models.find((m) => String(m.i) === form.elements[name].value) ?? now().models[0];
  const called = (s) => `${s.name} (${s.formula})`;
  const region = (s) => `${s.set}: ${s.stratum.replaceAll("_", " ")}`;

  /** Colour of every structure, and the legend. */
  function colours(map) {
    const by = form.elements.colour.value;
    if (by === "stratum") {
      const names = [...new Set(map.structures.map((s) => s.set))];
      const colour = (s) => PALETTE[names.indexOf(s.set) % PALETTE.length];
      return { colour, legend: names.map((name) => [PALETTE[names.indexOf(name) % PALETTE.length], name]) };
    }
    const values = map.structures.map((s) => s[by]).filter((v) => v !== null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const shade = (v) => `hsl(${(220 - 180 * v).toFixed(0)} 70% ${(38 + 18 * v).toFixed(0)}%)`;
    const at = (v) => (v === null ? "#8B8B8B" : shade(high > low ? (v - low) / (high - low) : 0.5));
    const ends = values.length ? [[at(low), fixed(low)], [at((low + high) / 2), fixed((low + high) / 2)], [at(high), fixed(high)]] : [];
    const none = map.structures.some((s) => s[by] === null) ? [["#8B8B8B", "not scored"]] : [];
    return { colour: (s) => at(s[by]), legend: [...ends, ...none] };
  }

  function draw() {
    const map = now();
    const model = seen("model");
    const { colour, legend } = colours(map);
    const chart = shape("svg", { viewBox: "-20 -20 1040 1040", role: "img", "aria-labelledby": "map-title map-caption" });
    map.structures.forEach((s, i) => {
      const dot = shape("circle", { cx: model.x[i], cy: 1000 - model.y[i], r: 8, fill: colour(s), "data-i": i });
      dot.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: `${called(s)}, ${region(s)}` }));
      chart.append(dot);
    });
    loop(chart, map, model);
    $("#chart-map").replaceChildren(chart);
    $("#map-legend").replaceChildren(
      ...legend.map(([fill, name]) => el("li", {}, el("span", { class: "swatch", style: `background:${fill}` }), name)),
    );
    page.title("map-title", `${map.label[0].toUpperCase()}${map.label.slice(1)} in the space of ${models[model.i].key}`, `n = ${map.n} of ${map.available}`);
    $("#map-caption").textContent =
      "t-SNE of rows of unit length: near structures stay near, but sizes of clusters and distances between them mean little. " +
      "Pick a point, draw a loop around several, or choose from the list.";
    $("#map-names").replaceChildren(...map.structures.map((s) => el("option", { value: called(s) }, region(s))));
    mark();
  }

  /** Picking with the pointer: a click takes one, a loop takes what it encloses. */
  function loop(chart, map, model) {
    let path = null;
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      return [point.x, point.y];
    };
    const line = shape("path", { class: "lasso" });
    chart.append(line);
    chart.addEventListener("pointerdown", (event) => {
      path = [at(event)];
      chart.setPointerCapture(event.pointerId);
    });
    chart.addEventListener("pointermove", (event) => {
      if (!path) return;
      path.push(at(event));
      line.setAttribute("d", `M${path.map((p) => p.join(" ")).join("L")}Z`);
    });
    chart.addEventListener("pointerup", (event) => {
      const drawn = path ?? [];
      path = null;
      line.removeAttribute("d");
      const long = drawn.some(([x, y]) => Math.hypot(x - drawn[0][0], y - drawn[0][1]) > 25);
      if (!long) {
        const [x, y] = at(event);
        const near = map.structures.map((_, i) => Math.hypot(model.x[i] - x, 1000 - model.y[i] - y));
        pick(near.indexOf(Math.min(...near)));
        return;
      }
      choose(map.structures.map((_, i) => i).filter((i) => inside(drawn, model.x[i], 1000 - model.y[i])));
    });
  }

  function inside(polygon, x, y) {
    let odd = false;
    polygon.forEach(([x1, y1], i) => {
      const [x2, y2] = polygon[(i + 1) % polygon.length];
      if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) odd = !odd;
    });
    return odd;
  }

  function mark() {
    for (const dot of document.querySelectorAll("#chart-map circle")) {
      dot.classList.toggle("picked", Number(dot.dataset.i) === state.picked);
      dot.classList.toggle("chosen", state.chosen.includes(Number(dot.dataset.i)));
    }
  }

  function choose(list) {
    state.chosen = list;
    if (list.length) state.picked = list[0];
    mark();
    tell();
  }

  function pick(i) {
    state.picked = i;
    form.elements.structure.value = called(now().structures[i]);
    mark();
    tell();
  }

  const rows = (list) => {
    const map = now();
    return list.map((i) => {
      const s = map.structures[i];
      return { id: s.id, name: s.name, formula: s.formula, set: s.set, stratum: s.stratum, atoms: s.atoms, agreement: s.agreement, gap_score: s.gap };
    });
  };

  /** The lists beside the map: what the loop holds, and what is nearest by either model. */
  function tell() {
    const map = now();
    const s = map.structures[state.picked];
    const [first, second] = [seen("model"), seen("other")];
    const both = new Set(first.nearest[state.picked].filter((i) => second.nearest[state.picked].includes(i)));
    const facts = [region(s), plural(s.atoms, "atom"), s.agreement === null ? "" : `models share ${fixed(100 * s.agreement, 0)} % of its neighbours`, s.gap === null ? "" : `gap score ${fixed(s.gap)}`];
    $("#map-picked").replaceChildren(el("h3", {}, called(s)), el("p", { class: "note" }, facts.filter(Boolean).join(" · "), el("br"), el("code", {}, s.id)));
    const list = (model) =>
      el(
        "div",
        {},
        el("h4", {}, `Nearest by ${models[model.i].key}`),
        el(
          "ol",
          { class: "nearest" },
          ...model.nearest[state.picked].map((i, rank) => {
            const other = map.structures[i];
            const go = el("button", { type: "button", class: "link", onclick: () => pick(i) }, called(other));
            const shared = both.has(i) ? el("strong", {}, " both") : "";
            return el("li", {}, go, shared, el("small", {}, ` ${region(other)}, distance ${fixed(model.distance[state.picked][rank], 3)}`));
          }),
        ),
      );
    $("#map-nearest").replaceChildren(list(first), list(second));
    $("#map-verdict").textContent = `${both.size} of ${first.nearest[state.picked].length} nearest structures are the same in both models, among the ${map.n} shown.`;
    const found = rows(state.chosen);
    $("#map-chosen").replaceChildren(
      ...(found.length
        ? [
            el("h3", {}, `${plural(found.length, "structure")} in the loop`),
            el(
              "div",
              { class: "buttons" },
              el("button", { type: "button", onclick: () => downloadRows(`${data.atlas.name}-structures`, "csv", found) }, "CSV"),
              el("button", { type: "button", onclick: () => downloadRows(`${data.atlas.name}-structures`, "json", found) }, "JSON"),
              el("button", { type: "button", onclick: () => choose([]) }, "Clear"),
            ),
            el("div", { class: "scroll tall", role: "region", tabindex: "0", "aria-label": "Structures in the loop" }, window.atlasKit.rowsTable(found, "Structures in the loop")),
          ]
        : []),
    );
    window.atlasViewer.show($("#viewer"), [
      [s, ...first.nearest[state.picked].slice(0, 3).map((i) => map.structures[i])],
      [s, ...second.nearest[state.picked].slice(0, 3).map((i) => map.structures[i])],
    ]);
  }

  /** Where to begin: a structure that can be drawn and whose neighbours the two models share least. */
  function beginning() {
    const [map, first, second] = [now(), seen("model"), seen("other")];
    const shared = map.structures.map((s, i) => (s.xyz ? first.nearest[i].filter((j) => second.nearest[i].includes(j)).length : Infinity));
    return Math.max(0, shared.indexOf(Math.min(...shared)));
  }

  function fill() {
    const map = now();
    const entries = map.models.map((m) => [String(m.i), models[m.i].key]);
    page.options(form.elements.model, entries);
    page.options(form.elements.other, entries);
    if (form.elements.other.value === form.elements.model.value && entries.length > 1) form.elements.other.value = entries[1][0];
    const scored = (key) => map.structures.some((s) => s[key] !== null);
    page.options(form.elements.colour, [["stratum", "structure set"], ...(scored("agreement") ? [["agreement", "agreement of models"]] : []), ...(scored("gap") ? [["gap", "gap score"]] : [])]);
  }

  return {
    name: "map",
    draw: async () => {},
    start: async () => {
      if (!form) return;
      maps = (await window.atlasKit.readData("maps")) ?? [];
      page.options(form.elements.kind, maps.map((m) => [m.kind, m.label]));
      fill();
      state.picked = beginning();
      form.addEventListener("change", (event) => {
        if (event.target.name === "kind") {
          fill();
          state = { picked: beginning(), chosen: [] };
        }
        if (event.target.name === "structure") {
          const i = now().structures.findIndex((s) => [called(s), s.id, s.name, s.formula].includes(event.target.value.trim()));
          if (i >= 0) state.picked = i;
        }
        draw();
        tell();
      });
      draw();
      tell();
    },
  };
};

// SPDX-License-Identifier: Apache-2.0
// Structures in space: two rows of small views on one canvas, drawn by 3Dmol.
window.atlasViewer = (() => {
  "use strict";
  const { el } = window.atlasKit;
  let grid = null;
  let holder = null;
  let last = null;

  /** Coordinates in XYZ, as 3Dmol reads them. */
  function xyz(entry) {
    const lines = entry.e.map((symbol, i) => [symbol, ...entry.p.slice(3 * i, 3 * i + 3).map((v) => (v / 100).toFixed(2))].join(" "));
    return [entry.e.length, "", ...lines].join("\n");
  }

  /** Lines of a cell's edges, in ångström. */
  function edges(view, cell) {
    const [a, b, c] = [0, 3, 6].map((i) => cell.slice(i, i + 3).map((v) => v / 100));
    const corner = (i, j, k) => ({ x: i * a[0] + j * b[0] + k * c[0], y: i * a[1] + j * b[1] + k * c[1], z: i * a[2] + j * b[2] + k * c[2] });
    for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      for (const [start, end] of [[corner(0, u, v), corner(1, u, v)], [corner(u, 0, v), corner(u, 1, v)], [corner(u, v, 0), corner(u, v, 1)]]) {
        view.addLine({ start, end, color: "#888888" });
      }
    }
  }

  function make(place) {
    // Without WebGL 3Dmol throws; lists and distances then stand alone.
    try {
      grid = window.$3Dmol.createViewerGrid(place, { rows: 2, cols: 4, control_all: false }, { backgroundAlpha: 0, antialias: true });
    } catch (error) {
      console.debug(error);
      grid = null;
    }
    return grid !== null;
  }

  function render(rows) {
    rows.forEach((row, r) =>
      row.forEach((structure, c) => {
        const view = grid[r][c];
        view.removeAllModels();
        view.removeAllShapes();
        view.removeAllLabels();
        if (structure.xyz) {
          view.addModel(xyz(structure.xyz), "xyz");
          const small = structure.xyz.e.length <= 120;
          view.setStyle({}, small ? { stick: { radius: 0.13 }, sphere: { scale: 0.26 } } : { stick: { radius: 0.11 } });
          if (structure.xyz.c) edges(view, structure.xyz.c);
          view.zoomTo();
        }
        view.render();
      }),
    );
  }

  /** Show two rows of structures: the picked one, then its nearest. */
  function show(place, rows) {
    last = rows;
    holder = place;
    const box = place.querySelector(".views");
    const label = (s, c) => el("span", {}, c ? s.name : `${s.name} (picked)`, s.xyz ? "" : el("small", {}, " coordinates not shown here"));
    place.querySelector(".labels").replaceChildren(...rows.map((row) => el("div", {}, ...row.map(label))));
    if (!grid && !make(box)) {
      box.replaceChildren(el("p", { class: "empty" }, "This browser draws no 3D (WebGL is off). The lists above say the same."));
      return;
    }
    place.dataset.drawn = rows.flat().filter((s) => s.xyz).length;
    render(rows);
  }

  window.addEventListener("resize", () => {
    if (!grid || !holder) return;
    for (const view of grid.flat()) view.resize();
    render(last);
  });

  return { show };
})();

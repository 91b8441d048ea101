// SPDX-License-Identifier: Apache-2.0
// Links to what is shown: every control that is not as it was at first stands in the address.
window.atlasLinks = (() => {
  "use strict";
  const { $$ } = window.atlasKit;
  const forms = () => $$("form.controls[id]");
  const fields = (form) => [...form.elements].filter((f) => f.name && f.type !== "button");
  const value = (form, name) => String(form.elements[name].value);
  let initial = new Map();

  function snapshot() {
    const found = new Map();
    for (const form of forms()) {
      const own = form.id.replace(/-controls$/, "");
      for (const field of fields(form)) {
        const held = field.type === "checkbox" ? String(field.checked) : value(form, field.name);
        found.set(`${own}.${field.name}`, held);
      }
    }
    return found;
  }

  /** The part of the address behind #: a section, and the controls that differ. */
  function address(section) {
    const changed = new URLSearchParams();
    for (const [name, held] of snapshot()) if (initial.get(name) !== held) changed.set(name, held);
    const query = String(changed);
    return `#${section}${query ? `?${query}` : ""}`;
  }

  async function apply() {
    const [section, query] = location.hash.slice(1).split("?");
    for (const [name, held] of new URLSearchParams(query ?? "")) {
      const [own, key] = name.split(".");
      const form = document.getElementById(`${own}-controls`);
      const field = form?.elements[key];
      if (!field) continue; // of another version of the page
      if (field.type === "checkbox") field.checked = held === "true";
      else field.value = held;
      (field instanceof RadioNodeList ? form : field).dispatchEvent(new Event("change", { bubbles: true }));
      await new Promise((done) => setTimeout(done)); // later choices may hang on this one
    }
    const place = section && document.getElementById(section);
    if (place) place.scrollIntoView();
  }

  function start() {
    initial = snapshot();
    for (const form of forms()) {
      form.addEventListener("change", () => {
        const section = form.closest("section").id;
        setTimeout(() => history.replaceState(null, "", address(section)));
      });
    }
    window.addEventListener("hashchange", () => location.hash.includes("?") && apply());
    return location.hash.length > 1 ? apply() : Promise.resolve();
  }

  return { start, address };
})();

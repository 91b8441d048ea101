// SPDX-License-Identifier: Apache-2.0
// Before anything is drawn: the theme chosen last time, so that the page never flashes.
(() => {
  "use strict";
  try {
    const theme = localStorage.getItem("matteratlas-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch (error) {
    // Storage is refused to some local files; the system's preference stands.
    console.debug(error);
  }
})();

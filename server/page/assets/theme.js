// Runs before the page is drawn, so that a chosen theme does not flash: a classic script in the head, the only one of ours.
"use strict";
try {
  const theme = JSON.parse(localStorage.getItem("jaxserve.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is forbidden: the system's theme holds */ }

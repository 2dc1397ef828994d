// Light or dark as the system says, until the reader chooses.
const root = document.documentElement;
const themeButton = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const themeWatchers = [];
let themeChosen = false;

function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  themeButton.setAttribute("aria-pressed", String(dark));
  themeWatchers.forEach((watch) => watch());
}

themeButton.addEventListener("click", () => {
  themeChosen = true;
  setTheme(root.dataset.theme !== "dark");
});
system.addEventListener("change", () => themeChosen || setTheme(system.matches));
setTheme(system.matches);

const cssColour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

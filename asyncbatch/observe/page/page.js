"use strict";
// Draws the figures of the page in its theme; the button and the system's setting change it.
const figures = JSON.parse(document.getElementById("figures").textContent);
// Okabe and Ito's colours, which colour-blind people can tell apart; the first is lighter on a dark ground.
const colorway = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a07800", "#5b5f66"],
  dark: ["#56b4e9", "#e69f00", "#2ec79b", "#e79bc4", "#4f8fe6", "#f0e442", "#b5bac1"],
};
const ground = { light: "#1c2024", dark: "#e8eaed" };
const lines = { light: "#e3e6ea", dark: "#33373d" };

const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

function template(theme) {
  const axis = { gridcolor: lines[theme], zerolinecolor: lines[theme], linecolor: lines[theme], automargin: true };
  return {
    layout: {
      font: { family: "system-ui, sans-serif", size: 13, color: ground[theme] },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: colorway[theme],
      margin: { l: 60, r: 20, t: 16, b: 48 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: lines[theme], activecolor: ground[theme] },
      hoverlabel: { font: { family: "system-ui, sans-serif" } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: axis,
      yaxis: axis,
    },
  };
}

function draw(theme) {
  document.documentElement.dataset.theme = theme;
  for (const [name, figure] of Object.entries(figures)) {
    // "ground" stands for the colour of text, which differs by theme.
    const traces = JSON.parse(JSON.stringify(figure.traces).replaceAll('"ground"', `"${ground[theme]}"`));
    const layout = { ...figure.layout, template: template(theme) };
    Plotly.react(name, traces, layout, options);
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
draw(dark.matches ? "dark" : "light");
dark.addEventListener("change", (event) => draw(event.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => {
  draw(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});

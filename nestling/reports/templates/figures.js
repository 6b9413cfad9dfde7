(() => {
  // Colours in figures are names of CSS variables, so the plots follow the page's light and dark.
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const style = getComputedStyle(document.documentElement);
  const paint = (value, key = "") => {
    if (Array.isArray(value)) return value.map(inner => paint(inner));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, inner]) => [k, paint(inner, k)]));
    return key.toLowerCase().endsWith("color") ? style.getPropertyValue(value).trim() : value;
  };
  const touch = matchMedia("(pointer: coarse)").matches;
  const axis = {color: "--muted", gridcolor: "--line", zeroline: false, automargin: true, fixedrange: touch,
                nticks: 8, tickfont: {size: 12}};
  const frame = {
    margin: {l: 12, r: 14, t: 12, b: 12}, showlegend: false, hovermode: "closest",
    dragmode: touch ? false : "zoom", paper_bgcolor: "--card", plot_bgcolor: "--card",
    font: {family: getComputedStyle(document.body).fontFamily, color: "--ink"},
    hoverlabel: {bgcolor: "--paper", bordercolor: "--ghost", font: {color: "--ink", size: 12}, align: "left"},
    xaxis: {...axis, tickformat: "~s"}, yaxis: axis,
  };
  const draw = () => figures.forEach(({id, data, layout}) =>
    Plotly.react(id, paint(data), paint({...frame, ...layout}), {responsive: true, displayModeBar: false}));
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();

// Draws each chart once, when it can be seen; folded ones when they are opened or printed.
(function () {
  "use strict";
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const NARROW_PX = 560;
  const PRINT_PX = 670;

  function layoutFor(place, layout) {
    const narrow = place.clientWidth < NARROW_PX;
    const fitted = JSON.parse(JSON.stringify(layout));
    delete fitted.width;
    if (narrow) {
      fitted.font.size = 12;
      fitted.legend.font.size = 11;
      fitted.xaxis.nticks = 6;
      const short = fitted.meta && fitted.meta.narrow_ticks;
      if (short) fitted.yaxis.ticktext = short;
      arrange(place, fitted);
    }
    return fitted;
  }

  // Fewer maps beside each other, and so a taller place.
  function arrange(place, fitted) {
    const panels = fitted.meta && fitted.meta.narrow;
    if (!panels) return;
    Object.keys(panels).forEach(function (axis) {
      Object.assign(fitted[axis], panels[axis]);
    });
    fitted.height = fitted.meta.narrow_height;
    place.style.height = fitted.height + "px";
  }

  function draw(place) {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "yes";
    const spec = specs[place.dataset.chart];
    Plotly.newPlot(place, spec.data, layoutFor(place, spec.layout), {
      responsive: true,
      displaylogo: false,
      displayModeBar: false,
    });
  }

  // Shows another round: other pictures and titles, on the same axes and colours.
  function slide(slider) {
    const place = document.querySelector('[data-chart="' + slider.dataset.slides + '"]');
    const spec = specs[slider.dataset.slides];
    const frame = spec.frames[slider.valueAsNumber];
    const data = spec.data.map(function (trace, index) {
      return Object.assign({}, trace, { z: frame.data[index].z });
    });
    const layout = layoutFor(place, spec.layout);
    Object.keys(frame.layout).forEach(function (axis) {
      layout[axis].title.text = frame.layout[axis].title.text;
    });
    slider.setAttribute("aria-valuetext", "round " + frame.name);
    slider.parentElement.querySelector("output").textContent = frame.name;
    Plotly.react(place, data, layout);
  }

  document.querySelectorAll("[data-slides]").forEach(function (slider) {
    slider.addEventListener("input", function () {
      slide(slider);
    });
  });

  function drawIn(root) {
    root.querySelectorAll("[data-chart]").forEach(function (place) {
      const fold = place.closest("details");
      if (!fold || fold.open) draw(place);
    });
  }

  // Paper has its own width, and a chart does not follow by itself.
  function fit(widthOf) {
    document.querySelectorAll("[data-drawn]").forEach(function (place) {
      Plotly.relayout(place, { width: widthOf(place) }).then(function () {
        place.layout.width = undefined;
      });
    });
  }

  document.querySelectorAll("details").forEach(function (fold) {
    fold.addEventListener("toggle", function () {
      if (fold.open) drawIn(fold);
    });
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details[data-print]").forEach(function (fold) {
      fold.open = true;
      drawIn(fold);
    });
    fit(function (place) {
      return place.closest(".pair") ? PRINT_PX / 2 - 20 : PRINT_PX;
    });
  });
  window.addEventListener("afterprint", function () {
    fit(function (place) {
      return place.clientWidth;
    });
  });
  drawIn(document);
})();

// Says when the program behind the page no longer answers; names the slider for screen readers.
(function () {
  "use strict";
  const PATIENCE_MS = Math.max(10000, 5000 * INTERVAL_S);
  const send = window.fetch;
  let answered = Date.now();

  window.fetch = function () {
    return send.apply(this, arguments).then(function (answer) {
      if (answer.ok) answered = Date.now();
      return answer;
    });
  };

  function nameSlider() {
    document.querySelectorAll("[role=slider]:not([aria-labelledby])").forEach(function (knob) {
      knob.setAttribute("aria-labelledby", "round-label");
    });
  }

  function tellWhetherLost() {
    const banner = document.getElementById("lost");
    if (!banner) return;
    const lost = !document.hidden && Date.now() - answered > PATIENCE_MS;
    if (lost !== banner.hidden) return;
    banner.hidden = !lost;
    banner.textContent = lost
      ? "No answer from fedward monitor: what is below is as it was. Is the program still running?"
      : "";
  }

  document.addEventListener("visibilitychange", function () {
    if (!document.hidden) answered = Date.now();
  });
  setInterval(function () {
    nameSlider();
    tellWhetherLost();
  }, 1000);
})();

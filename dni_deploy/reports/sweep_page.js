(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const element = id => document.getElementById(id);
  const viewer = element("viewer"), slider = element("alpha"), uncover = element("uncover"), status = element("status");
  const frames = [...viewer.querySelectorAll("img.frame")], lastFrame = element("last-frame"), referenceFrame = element("reference-frame"), marker = element("marker");
  let index = data.start, view = "network";
  function draw() {
    const row = data.rows[index], showsPixels = view === "pixels";
    frames.forEach((image, position) => { image.hidden = position !== (showsPixels ? 0 : index); });
    if (lastFrame) { lastFrame.hidden = !showsPixels; lastFrame.style.opacity = row.position; }
    if (referenceFrame) referenceFrame.hidden = view !== "reference";
    const alpha = document.createElement("b"), text = view === "reference" ? "the reference" : showsPixels ? row.pixels : row.network;
    alpha.textContent = row.alpha;
    status.replaceChildren(alpha, document.createElement("br"), text);
    slider.setAttribute("aria-valuetext", row.alpha + ". " + text);
    if (marker) { marker.setAttribute("cx", row.x); marker.setAttribute("cy", showsPixels ? row.pixels_y : row.network_y); }
  }
  slider.addEventListener("input", () => { index = Number(slider.value); draw(); });
  uncover.addEventListener("input", () => {
    viewer.style.setProperty("--uncovered", uncover.value + "%");
    viewer.style.setProperty("--edge-opacity", Number(uncover.value) > 0 && Number(uncover.value) < 100 ? 1 : 0);
    uncover.setAttribute("aria-valuetext", uncover.value + " percent of the width shows the input");
  });
  document.querySelectorAll("input[name=view]").forEach(choice =>
    choice.addEventListener("change", () => { view = choice.value; draw(); }));
  // A browser may restore the sliders of an earlier visit; the page starts as it was written.
  slider.value = data.start; uncover.value = 0;
  document.querySelectorAll("input[name=view]").forEach(choice => { choice.checked = choice.value === "network"; });
  draw();
})();

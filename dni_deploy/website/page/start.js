// Says in one sentence why the page cannot work here, or loads it. No module, so that it runs where modules do not: from a file on disk.
(() => {
  const problem = document.getElementById("problem");
  const say = sentence => {
    problem.textContent = sentence;
    problem.hidden = false;
    document.getElementById("waiting").hidden = true;
    document.getElementById("lead").textContent = "";
  };
  window.addEventListener("error", event => { if (event.target !== window) say("A part of this page could not be loaded; reload it, or ask whoever publishes it."); }, true);
  if (location.protocol === "file:") {
    say("A browser does not let a page that is opened as a file read the network beside it. Put this folder on a web server; "
      + "on your own machine, run python -m http.server in it and open http://localhost:8000.");
    return;
  }
  if (typeof WebAssembly !== "object" || typeof Worker !== "function" || !("noModule" in HTMLScriptElement.prototype)) {
    say("This browser has neither WebGPU nor WebAssembly, one of which runs the network here. A current Chrome, Edge, Firefox or Safari has.");
    return;
  }
  const script = document.createElement("script");
  script.type = "module";
  script.src = "page.js";
  document.head.append(script);
})();

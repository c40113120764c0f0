"use strict";
// The live part of the start page, and the arrow keys among bars. Everything else works without a script.

const EVERY_MS = 2000;
const LONGEST_MS = 10000;

function follow(address) {
  let timer = 0;
  let asking = false;

  async function ask() {
    if (asking || document.hidden) return;
    asking = true;
    clearTimeout(timer);
    const stop = new AbortController();
    const late = setTimeout(() => stop.abort(), LONGEST_MS);
    let reached = false;
    try {
      const answer = await fetch(address, { cache: "no-store", signal: stop.signal });
      if (answer.ok) {
        show(await answer.json());
        reached = true;
      }
    } catch (error) {
      // Shown below, and tried again.
    }
    clearTimeout(late);
    document.getElementById("lost").hidden = reached;
    asking = false;
    timer = setTimeout(ask, EVERY_MS);
  }

  // While nobody looks, nothing is requested.
  document.addEventListener("visibilitychange", ask);
  timer = setTimeout(ask, EVERY_MS);
}

function show({ title, ...parts }) {
  document.title = title;
  for (const [id, text] of Object.entries(parts)) {
    const part = document.getElementById(id);
    // A part that has the focus stays until the focus moves on. The server has escaped what came from elsewhere.
    if (part && part.shown !== text && !part.contains(document.activeElement)) {
      part.innerHTML = text;
      part.shown = text;
    }
  }
}

function walk(chart) {
  const stops = [...chart.querySelectorAll("a")];
  chart.addEventListener("keydown", (event) => {
    const at = stops.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: stops.length - 1 }[event.key];
    if (at < 0 || to === undefined || !stops[to]) return;
    event.preventDefault();
    stops[at].setAttribute("tabindex", "-1");
    stops[to].setAttribute("tabindex", "0");
    stops[to].focus();
  });
}

const live = document.querySelector("[data-live]");
if (live) follow(live.dataset.live);
document.querySelectorAll("svg.plot").forEach(walk);

// A button at each block of code that copies what one would type: without prompts, and without what is printed.
"use strict";

// What Pygments marks as a prompt, as output and as a traceback.
const NOT_TYPED = ".gp, .go, .gt, .gr";
const SHOWN_MS = 2000;

function typed(pre) {
  const copy = pre.cloneNode(true);
  const marked = copy.querySelectorAll(NOT_TYPED);
  marked.forEach((part) => part.remove());
  const lines = copy.textContent.replace(/\n+$/, "").split("\n");
  return (marked.length ? lines.filter((line) => line.trim()) : lines).join("\n");
}

function addButton(pre) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy-button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(typed(pre));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, SHOWN_MS);
  });
  pre.parentElement.append(button);
}

document.addEventListener("DOMContentLoaded", () => {
  // A browser offers no clipboard to pages that come over the network without TLS.
  if (navigator.clipboard) document.querySelectorAll("article div.highlight > pre").forEach(addButton);
});

// What the page does better with a script: it renews itself, tells what is under the pointer, and takes arrow keys.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.renew);
  const liveness = document.getElementById("liveness");
  const patience = 8000;
  let timer = 0;
  let renewing = false;
  let renewed = Date.now();

  // Make `old` like `fresh` with as little change as will do, so that nothing flashes and focus and scroll stay.
  function become(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.id === "pointed" || old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && name !== "tabindex") old.removeAttribute(name);
    for (const { name, value } of fresh.attributes)
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((child, at) => {
      if (at < before.length) become(before[at], child);
      else old.append(document.importNode(child, true));
    });
    before.slice(after.length).forEach((child) => child.remove());
  }

  // The link that had the focus has it again, though others may have come before it.
  function keepFocus(change) {
    const href = document.activeElement?.getAttribute?.("href");
    const list = document.activeElement?.closest?.("#cells, table");
    change();
    if (!href || !list || document.activeElement?.getAttribute("href") === href) return;
    const again = [...list.querySelectorAll("a")].find((link) => link.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
  }

  // Said once, for a screen reader reads it out; the age beside it is not, though it counts on.
  function say(text) {
    if (liveness.textContent !== text) liveness.textContent = text;
    document.body.classList.toggle("away", text !== "");
    tellAge();
  }

  function tellAge() {
    const seconds = Math.round((Date.now() - renewed) / 1000);
    const age = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
    document.getElementById("age").textContent = liveness.textContent ? `(${age} ago)` : "";
  }

  async function renew() {
    if (renewing) return;
    renewing = true;
    clearTimeout(timer);
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "text/html" },
        cache: "no-cache",
        signal: AbortSignal.timeout(patience),
      });
      if (answer.status === 503 && answer.headers.has("Retry-After")) return; // busy: the next one is in a moment
      if (answer.status >= 500) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!fresh.getElementById("main")) throw new Error("another page");
      keepFocus(() => {
        become(document.getElementById("main"), fresh.getElementById("main"));
        become(document.getElementById("made"), fresh.getElementById("made"));
      });
      rove();
      renewed = Date.now();
      say("");
    } catch {
      say("The server does not answer");
    } finally {
      renewing = false;
      schedule();
    }
  }

  function schedule() {
    clearTimeout(timer);
    if (seconds && document.visibilityState === "visible") timer = setTimeout(renew, seconds * 1000);
  }

  // One stop of the tab key for all cells; the arrow keys go from one to the next.
  function rove() {
    const cells = [...document.querySelectorAll("#cells a")];
    const current = cells.find((cell) => cell === document.activeElement) || cells.find((cell) => cell.tabIndex === 0);
    cells.forEach((cell) => { cell.tabIndex = cell === (current || cells[0]) ? 0 : -1; });
  }

  function step(event) {
    const cells = [...document.querySelectorAll("#cells a")];
    const at = cells.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const top = cells[at].getBoundingClientRect().top;
    const row = cells.filter((cell) => Math.abs(cell.getBoundingClientRect().top - top) < 2).length;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row, Home: 0, End: cells.length - 1 }[event.key];
    if (to === undefined || !cells[to]) return;
    event.preventDefault();
    cells[at].tabIndex = -1;
    cells[to].tabIndex = 0;
    cells[to].focus();
  }

  function point(event) {
    const pointed = document.getElementById("pointed");
    const cell = event.target.closest?.("#cells [title]");
    if (pointed && cell) pointed.textContent = cell.title;
  }

  if (seconds) {
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") renew();
      else clearTimeout(timer);
    });
    document.getElementById("renew").addEventListener("click", (event) => {
      event.preventDefault();
      renew();
    });
    schedule();
    setInterval(tellAge, 1000);
  }
  rove();
  document.addEventListener("keydown", step);
  document.addEventListener("mouseover", point);
  document.addEventListener("focusin", point);
})();

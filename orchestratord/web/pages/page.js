// What a page does only with a script: it refreshes itself, shows the value under the pointer, and handles the arrow keys.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.renew);
  const liveness = document.getElementById("liveness");
  const patience = 8000;
  const mostLines = 12;
  let timer = 0;
  let renewing = false;
  let renewed = Date.now();

  // Change `old` to `fresh` with as few changes as possible, so that nothing flashes, and the focus and the scroll position stay.
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

  // Keep the focus on the same link, even if links were added before it.
  function keepFocus(change) {
    const href = document.activeElement?.getAttribute?.("href");
    const list = document.activeElement?.closest?.("#cells, table");
    change();
    if (!href || !list || document.activeElement?.getAttribute("href") === href) return;
    const again = [...list.querySelectorAll("a")].find((link) => link.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
  }

  // Set the text only if it changes: a screen reader reads it out. It does not read the age beside it, which changes every second.
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
      if (answer.status === 503 && answer.headers.has("Retry-After")) return; // the server is busy: try again at the next refresh
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

  // The tab key stops once for all cells; the arrow keys move between them.
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

  // The values under the pointer. The positions of the times come from the SVG, the values from the query's answer.
  async function readings(chart, image) {
    const [svg, answer] = await Promise.all([
      fetch(image.currentSrc, { signal: AbortSignal.timeout(patience) }),
      fetch(chart.dataset.values, { signal: AbortSignal.timeout(patience) }),
    ]);
    if (!svg.ok || !answer.ok) throw new Error("no answer");
    // Not parsed as a document: its style would violate the content security policy of this page.
    const [head] = (await svg.text()).match(/<svg\b[^>]*>/);
    const attribute = (name) => head.match(new RegExp(`\\b${name}="([^"]*)"`))[1];
    const places = Object.fromEntries(["start", "end", "top", "bottom"].map((name) => [name, Number(attribute(`data-${name}`))]));
    const names = [...document.querySelectorAll("#series tbody th")].map((head) => head.textContent);
    const series = (await answer.json()).data.result.slice(0, mostLines).map(({ values }) => values);
    const [, , width, height] = attribute("viewBox").split(" ").map(Number);
    return { source: image.currentSrc, names, series, width, height, ...places };
  }

  function short(text) {
    const value = Number(text);
    if (!Number.isFinite(value)) return text;
    return value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) < 1e6 ? 6 : 4, notation: Math.abs(value) < 1e6 ? "standard" : "compact" });
  }

  function hover(chart) {
    const image = chart.querySelector("img");
    const line = chart.appendChild(document.createElement("div"));
    const list = chart.appendChild(document.createElement("p"));
    line.className = "guide";
    list.className = "readings";
    line.hidden = list.hidden = true;
    list.setAttribute("aria-hidden", "true"); // screen readers have the table below
    let known = null;
    let asking = null;
    image.addEventListener("pointermove", async (event) => {
      const { left, width } = image.getBoundingClientRect();
      if (known?.source !== image.currentSrc) {
        asking ??= readings(chart, image).finally(() => { asking = null; });
        try { known = await asking; } catch { return; }
      }
      const start = Number(chart.dataset.start);
      const end = Number(chart.dataset.end);
      const place = ((event.clientX - left) / width) * known.width;
      const share = (place - known.start) / (known.end - known.start);
      if (share < -0.01 || share > 1.01) return;
      const wanted = start + share * (end - start);
      let nearest = null;
      for (const values of known.series)
        for (const [at] of values) if (nearest === null || Math.abs(at - wanted) < Math.abs(nearest - wanted)) nearest = at;
      if (nearest === null) return;
      const time = document.createElement("b");
      time.textContent = `${new Date(nearest * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
      list.replaceChildren(time);
      known.series.forEach((values, index) => {
        const value = values.find(([at]) => at === nearest);
        if (!value) return;
        const item = list.appendChild(document.createElement("span"));
        const key = item.appendChild(document.createElement("i"));
        key.className = `key k${index}`;
        item.append(`${known.names[index] ?? ""} ${short(value[1])}`);
      });
      const at = known.start + ((nearest - start) / (end - start)) * (known.end - known.start);
      line.style.left = `${(100 * at) / known.width}%`;
      line.style.top = `${(image.offsetHeight * known.top) / known.height}px`;
      line.style.height = `${(image.offsetHeight * (known.bottom - known.top)) / known.height}px`;
      line.hidden = list.hidden = false;
    });
    image.addEventListener("pointerleave", () => { line.hidden = true; });
  }

  const chart = document.getElementById("chart");
  if (chart) hover(chart);

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

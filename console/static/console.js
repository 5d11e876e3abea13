// Refreshes the numbers and draws the last 15 minutes. Texts go in by textContent alone: names and keys are hostile.
const dir = document.body.dataset.dir;
const svgNS = "http://www.w3.org/2000/svg";

function draw(box, seconds) {
  let svg = box.firstElementChild;
  if (!svg) {
    svg = document.createElementNS(svgNS, "svg");
    svg.setAttribute("viewBox", "0 0 900 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    for (const name of ["accepted", "refused"]) {
      const line = document.createElementNS(svgNS, "polyline");
      line.setAttribute("class", "line-" + name);
      svg.append(line);
    }
    const legend = document.createElement("p");
    legend.className = "note";
    box.append(svg, legend);
  }
  const most = Math.max(1, ...seconds.accepted, ...seconds.refused);
  ["accepted", "refused"].forEach((name, i) => {
    const values = seconds[name];
    const first = 900 - values.length;
    const points = values.map((v, at) => `${first + at},${(98 - 96 * v / most).toFixed(1)}`);
    points.unshift("0,98", `${first},98`); // Nothing was observed before.
    svg.children[i].setAttribute("points", points.join(" "));
  });
  const text = `Last 15 minutes by the second, at most ${most} a second: accepted (solid), refused (dashed).`;
  svg.setAttribute("aria-label", text);
  box.lastElementChild.textContent = text;
}

function cell(row, ...parts) {
  const td = document.createElement("td");
  td.append(...parts);
  row.append(td);
}

function show(limiter) {
  const card = [...document.querySelectorAll("[data-limiter]")].find((e) => e.dataset.limiter === limiter.id);
  if (!card) return;
  for (const [name, value] of Object.entries({ ...limiter.totals, mode: limiter.mode })) {
    card.querySelector(`[data-field="${name}"]`).textContent = value;
  }
  card.querySelector('[data-field="mode"]').className = "badge " + limiter.mode;
  draw(card.querySelector("[data-curve]"), limiter.seconds);
  for (const body of card.querySelectorAll("[data-top]")) showTop(body, limiter[body.dataset.top]);
}

function showTop(body, keys) {
  const none = document.createElement("tr");
  cell(none, "none");
  none.firstElementChild.colSpan = 3;
  body.replaceChildren(...keys.map((k) => {
    const row = document.createElement("tr");
    const digest = document.createElement("code");
    digest.textContent = k.key;
    cell(row, k.raw ? k.raw + " " : "", digest);
    cell(row, String(k.at_least));
    cell(row, String(k.at_most));
    return row;
  }), ...(keys.length ? [] : [none]));
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(dir + "data.json");
      if (response.ok) (await response.json()).limiters.forEach(show);
    } catch { /* The instance may be restarting; the next round asks again. */ }
  }
  setTimeout(refresh, 2000);
}
refresh();

// Refreshes the numbers and the curves. Texts go in by textContent alone: names and keys are hostile.
const dir = document.body.dataset.dir;

// As in curve.go: a step for each value, and the largest is 96 high.
function steps(values, width, most) {
  if (!values.some((v) => v > 0)) return "";
  let path = "M0 98h", run = width - values.length, height = 0;
  for (const v of values) {
    const h = Math.ceil(96 * v / most);
    if (h !== height) {
      path += `${run}v${height - h}h`;
      run = 0;
      height = h;
    }
    run++;
  }
  return path + run;
}

function draw(figure, curves) {
  const most = Math.max(1, ...Object.values(curves).flat());
  for (const line of figure.querySelectorAll("path")) {
    line.setAttribute("d", steps(curves[line.classList[1]], Number(figure.dataset.width), most));
  }
  const caption = figure.querySelector("figcaption");
  caption.textContent = caption.textContent.replace(/\d+ a /, `${most} a `);
}

function cell(row, ...parts) {
  const td = document.createElement("td");
  td.append(...parts);
  row.append(td);
}

function element(name, text) {
  const e = document.createElement(name);
  e.textContent = text;
  return e;
}

function show(limiter) {
  const card = [...document.querySelectorAll("[data-limiter]")].find((e) => e.dataset.limiter === limiter.id);
  if (!card) return;
  const { count, relative_error: error } = limiter.shadow_clients;
  const until = limiter.mode_until && new Date(limiter.mode_until).toISOString();
  const values = {
    ...limiter.totals,
    mode: limiter.mode,
    mode_until: until ? `${until.slice(0, 10)} ${until.slice(11, 19)} UTC` : "",
    all: Object.values(limiter.totals).reduce((sum, n) => sum + n),
    shadow_clients: error ? `about ${count} (± ${(100 * error).toFixed()} %)` : count,
  };
  for (const field of card.querySelectorAll("[data-field]")) field.textContent = values[field.dataset.field];
  card.querySelector('[data-field="mode"]').className = "badge " + limiter.mode;
  card.querySelector('[data-field="mode_until"]').parentElement.hidden = !until;
  card.querySelector(".shadow-report").hidden = limiter.mode !== "shadow";
  for (const figure of card.querySelectorAll("[data-curve]")) draw(figure, limiter[figure.dataset.curve]);
  for (const body of card.querySelectorAll("[data-top]")) showTop(body, limiter[body.dataset.top]);
}

function showTop(body, keys) {
  const none = document.createElement("tr");
  cell(none, "none");
  none.firstElementChild.colSpan = 3;
  body.replaceChildren(...keys.map((k) => {
    const row = document.createElement("tr");
    cell(row, ...(k.raw ? [element("bdi", k.raw), " "] : []), element("code", k.key));
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

"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const collator = new Intl.Collator("en", { numeric: true });

  // Tables: a button in a head sorts by its column, empty cells last.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = parseFloat(text.replaceAll(",", ""));
    return { text, number: Number.isNaN(number) ? null : number };
  };
  const sortBy = (table, column, descending) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
    const numeric = keyed.some(({ value }) => value.number !== null);
    const sign = descending ? -1 : 1;
    keyed.sort((a, b) => {
      if (!numeric) return sign * collator.compare(a.value.text, b.value.text);
      if (a.value.number === null || b.value.number === null) {
        return (a.value.number === null) - (b.value.number === null);
      }
      return sign * (a.value.number - b.value.number);
    });
    body.append(...keyed.map(({ row }) => row));
    for (const head of table.tHead.rows[0].cells) {
      if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
    }
    const order = descending ? "descending" : "ascending";
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", order);
  };
  for (const table of all("table[data-sortable]")) {
    for (const button of all("thead button", table)) {
      const head = button.closest("th");
      button.addEventListener("click", () => {
        sortBy(table, head.cellIndex, head.getAttribute("aria-sort") !== "descending");
      });
    }
  }

  // Test images: by outcome.
  const rows = all("#image-table tbody tr");
  const filters = all("[data-filter]");
  const show = (wanted) => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = wanted !== "all" && row.dataset.outcome !== wanted;
      shown += row.hidden ? 0 : 1;
    }
    for (const button of filters) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === wanted));
    }
    byId("images-count").textContent = `${shown} of ${rows.length} images are shown.`;
  };
  for (const button of filters) {
    const kind = button.dataset.filter;
    const count = rows.filter((row) => kind === "all" || row.dataset.outcome === kind).length;
    button.textContent += ` (${count})`;
    button.addEventListener("click", () => show(kind));
  }
  show("all");
  sortBy(byId("image-table"), byId("sort-radius").closest("th").cellIndex, true);

  // Charts: traces say whose they are; colours are those of the style sheet.
  const figures = JSON.parse(byId("figures").textContent);
  const hiddenEntries = new Set();
  const picked = new Set();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const colourOf = (colour) => css(colour === "neutral" ? "--neutral" : `--c${colour % 6}`);
  const clear = (hex, alpha) => `rgba(${channels(hex).join(",")},${alpha})`;
  const mixed = (share) => {
    const [from, to] = [channels(css("--faint")), channels(css("--c0"))];
    return `rgb(${from.map((at, i) => Math.round(at + share * (to[i] - at))).join(",")})`;
  };
  const painted = (trace) => {
    const meta = trace.meta ?? {};
    const found = { ...trace };
    const colour = meta.shade === undefined ? colourOf(meta.colour ?? 0) : mixed(meta.shade);
    if (meta.role === "band") {
      found.fillcolor = clear(colour, 0.16);
    } else {
      found.line = { ...trace.line, color: colour };
      found.marker = { ...trace.marker, color: colour };
      if (trace.type === "bar") delete found.line;
    }
    found.visible = !hiddenEntries.has(meta.entry);
    return found;
  };
  const withPicked = (traces) => {
    if (!picked.size) return traces;
    const lines = { x: [], y: [], text: [], customdata: [] };
    for (const trace of traces.filter((one) => one.meta?.shade !== undefined)) {
      trace.customdata.forEach((number, at) => {
        if (picked.has(number) || (number === null && picked.has(trace.customdata[at - 1]))) {
          for (const name of Object.keys(lines)) lines[name].push(trace[name][at]);
        }
      });
    }
    const faint = traces.map((one) =>
      one.meta?.shade === undefined ? one : { ...one, opacity: 0.2 * (one.opacity ?? 1) },
    );
    const many = picked.size > 100;
    const line = { width: many ? 0.8 : 2, color: css("--c0") };
    const own = { ...traces[0], ...lines, opacity: many ? 0.5 : 1, name: "picked", line };
    return [...faint, own];
  };
  const layoutOf = (layout) => {
    const [text, line] = [css("--text"), css("--line")];
    const found = {
      height: 400, ...layout,
      margin: { l: 62, r: 16, t: 28, b: 48, ...layout.margin },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: text },
      legend: {
        orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemclick: false,
        itemdoubleclick: false, ...layout.legend,
      },
      hoverlabel: { bgcolor: css("--card"), bordercolor: line, font: { color: text } },
      annotations: (layout.annotations ?? []).map((note) => (
        note.xref === "x" ? { ...note, bgcolor: clear(css("--card"), 0.75), borderpad: 0 } : note
      )),
      shapes: (layout.shapes ?? []).map((shape) => ({ ...shape, line: { ...shape.line, color: css("--neutral") } })),
    };
    for (const name of Object.keys(found)) {
      if (/^[xy]axis/.test(name)) {
        found[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...found[name] };
      }
    }
    return found;
  };
  const draw = (id) => {
    const { data, layout } = figures[id];
    const traces = data.map(painted);
    const place = byId(`chart-${id}`);
    const drawn = Plotly.react(
      place, id === "parallel" ? withPicked(traces) : traces, layoutOf(layout),
      {
        responsive: true, displaylogo: false, showSendToCloud: false,
        modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      },
    );
    // The words beside it say what it shows; its buttons stay.
    for (const picture of all(".main-svg", place)) picture.setAttribute("aria-hidden", "true");
    return drawn;
  };
  const drawAll = () => Object.keys(figures).map(draw);

  for (const button of all("[data-entry]")) {
    const colour = button.dataset.colour;
    button.style.setProperty("--own", colour === "neutral" ? "var(--neutral)" : `var(--c${colour % 6})`);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!shown));
      if (shown) hiddenEntries.add(button.dataset.entry);
      else hiddenEntries.delete(button.dataset.entry);
      if (!window.Plotly) return;
      for (const [id, { data }] of Object.entries(figures)) {
        if (data.some((trace) => trace.meta?.entry === button.dataset.entry)) draw(id);
      }
    });
  }

  const ranked = all("#ranks tbody tr");
  const pick = (numbers) => {
    picked.clear();
    for (const number of numbers) picked.add(number);
    for (const row of ranked) row.hidden = picked.size > 0 && !picked.has(Number(row.dataset.trial));
    byId("ranks-count").textContent = picked.size
      ? `${picked.size} picked trials of ${ranked.length} are shown.` : "";
    draw("parallel");
  };
  const listenToPicks = () => {
    const chart = byId("chart-parallel");
    if (!chart) return;
    chart.on("plotly_selected", (event) => {
      if (event) pick(event.points.map((point) => point.customdata).filter((n) => n !== null));
    });
    chart.on("plotly_deselect", () => pick([]));
  };

  const start = async () => {
    const packed = Uint8Array.from(atob(byId("plotly").textContent), (one) => one.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    await Promise.all(drawAll());
    listenToPicks();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    document.documentElement.dataset.drawn = "true";
  };
  start().catch((error) => {
    console.error(error);
    byId("no-charts").hidden = false;
  });
})();

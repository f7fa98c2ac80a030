(() => {
  "use strict";
  const root = document.documentElement;
  const store = {
    get: () => { try { return localStorage.getItem("fxprune-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("fxprune-theme", value); } catch { /* files may have no storage */ } },
  };
  const wear = (theme) => theme === "light" || theme === "dark" ? (root.dataset.theme = theme) : delete root.dataset.theme;
  wear(store.get());

  document.addEventListener("DOMContentLoaded", () => {
    const find = (id) => document.getElementById(id);
    let read; // the document, parsed when it is first asked for
    const data = () => (read ??= JSON.parse(find("data").textContent));
    const made = (kind, text, properties = {}) => Object.assign(document.createElement(kind), { textContent: text ?? "" }, properties);
    const drawn = (kind, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    };
    const WORDS = { pruned: "pruned", free: "whole", frozen: "frozen", protected: "protected", branch: "gone, with its branch" };
    const channels = (group) => group.kept === group.size ? `${group.size} channels` : `${group.size} → ${group.kept} channels`;

    // Light or dark
    for (const input of document.querySelectorAll("[name=theme]")) {
      input.checked = input.value === (store.get() ?? "auto");
      input.addEventListener("change", () => { wear(input.value); store.set(input.value); });
    }

    // Charts: a cursor that mouse, finger and arrow keys move
    const tip = find("tip");
    const KINDS = {
      widths: (i) => ({ title: data().groups[i].id, lines: [`${channels(data().groups[i])} (${data().groups[i].share_text} kept)`, data().groups[i].reason], group: i }),
      bins: (i) => {
        const s = data().scores;
        return { title: `score ${s.edges[i]} to ${s.edges[i + 1]}`, lines: [`${s.stays[i]} channels stay, ${s.went[i]} went`] };
      },
      along: (i) => {
        const number = data().scores.groups[i].group, group = data().groups[number], s = group.scores;
        const cut = s.cut_text ? `, cut at ${s.cut_text}` : "";
        return { title: group.id, lines: [`median ${s.quantiles_text[1]}, four fifths from ${s.quantiles_text[0]} to ${s.quantiles_text[2]}${cut}`, channels(group)], group: number };
      },
      repair: (i) => {
        const site = data().repair.sites[i];
        return { title: site.name, lines: [`error ${site.before_text} → ${site.after_text}`, site.kept && `as it was: ${site.kept}`] };
      },
    };
    for (const chart of document.querySelectorAll("[data-chart]")) {
      const told = KINDS[chart.dataset.chart], count = +chart.dataset.count;
      const plot = chart.querySelector(".plot"), cursor = chart.querySelector(".cursor");
      let at = 0;
      const show = (index) => {
        at = Math.max(0, Math.min(count - 1, index));
        const { title, lines } = told(at), box = plot.getBoundingClientRect();
        cursor.hidden = false;
        cursor.style.left = `${100 * at / count}%`;
        cursor.style.width = `${100 / count}%`;
        tip.replaceChildren(made("b", title), ...lines.filter(Boolean).map((line) => made("div", line)));
        tip.chart = chart;
        tip.hidden = false;
        const middle = box.left + box.width * (at + 0.5) / count, wide = tip.offsetWidth;
        tip.style.left = `${Math.max(8, Math.min(root.clientWidth - wide - 8, middle - wide / 2))}px`;
        const above = box.top - tip.offsetHeight - 6;
        tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
        chart.setAttribute("aria-valuenow", at + 1);
        chart.setAttribute("aria-valuetext", [title, ...lines.filter(Boolean)].join(", "));
      };
      const hide = () => {
        cursor.hidden = true;
        if (tip.chart === chart) tip.hidden = true; // another chart may have it by now
      };
      const under = (event) => {
        const box = plot.getBoundingClientRect();
        return Math.floor((event.clientX - box.left) / box.width * count);
      };
      plot.addEventListener("pointermove", (event) => { // not where the page moves below a mouse that rests
        if (event.pointerType !== "mouse" || event.movementX || event.movementY) show(under(event));
      });
      plot.addEventListener("pointerleave", () => { if (document.activeElement !== chart) hide(); });
      plot.addEventListener("click", (event) => { show(under(event)); choose(); });
      chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) show(at); });
      chart.addEventListener("blur", hide);
      const choose = () => { const { group } = told(at); if (group !== undefined) open(group, chart); };
      chart.addEventListener("keydown", (event) => {
        const leap = Math.max(1, Math.round(count / 10));
        const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageDown: at - leap, PageUp: at + leap, Home: 0, End: count - 1 }[event.key];
        if (to !== undefined) show(to);
        else if (event.key === "Enter" || event.key === " ") choose();
        else if (event.key === "Escape") hide();
        else return;
        event.preventDefault();
      });
    }

    // One group: members, reason, scores
    const panel = find("panel");
    let opener = null;
    const ROLES = { producer: "Made by", affine: "Goes along", consumer: "Read by" };
    const close = () => {
      if (panel.hidden) return;
      panel.hidden = true;
      mark(null);
      opener?.focus({ preventScroll: true });
    };
    const bins = (s) => {
      const n = s.went.length, svg = drawn("svg", { viewBox: `0 0 ${n} 1`, preserveAspectRatio: "none", role: "img", "aria-label": "Scores of its channels" });
      let went = "", stays = "";
      for (let i = 0; i < n; i++) {
        const low = s.went[i] / s.most, high = s.stays[i] / s.most;
        if (low) went += `M${i + 0.06} 1h.88v${-low}h-.88z`;
        if (high) stays += `M${i + 0.06} ${1 - low}h.88v${-high}h-.88z`;
      }
      svg.append(drawn("path", { class: "fill-gone", d: went }), drawn("path", { class: "fill-kept", d: stays }));
      if (s.cut_at !== null) svg.append(drawn("path", { class: "stroke cut", d: `M${s.cut_at * n} -.06V1` }));
      return svg;
    };
    function open(number, from) {
      const group = data().groups[number];
      opener = from;
      const head = made("header"), title = made("h2", group.id, { className: "name", id: "panel-title" });
      const shut = made("button", "Close", { className: "button", type: "button" });
      shut.addEventListener("click", close);
      head.append(title, shut);
      const body = made("div", "", { className: "body" }), first = made("div");
      first.append(made("div", channels(group), { className: "big num" }), made("span", WORDS[group.status], { className: `tag ${group.status}` }));
      if (!group.exact && group.status === "pruned") first.append(" ", made("span", "statistics change", { className: "tag note" }));
      if (group.reason && group.status !== "pruned") first.append(made("p", group.reason, { className: "soft", id: "panel-reason" }));
      body.append(first);
      if (group.scores) {
        const part = made("div"), ends = made("div", "", { className: "ends num" });
        ends.append(made("span", group.scores.low_text), made("span", group.scores.log ? "score, logarithmic" : "score"), made("span", group.scores.high_text));
        part.append(made("h3", group.scores.cut_text ? `Scores, cut at ${group.scores.cut_text}` : "Scores"), bins(group.scores), ends);
        body.append(part);
      }
      for (const [role, words] of Object.entries(ROLES)) {
        const members = group.members.filter((member) => member[2] === role);
        if (!members.length) continue;
        const part = made("div"), list = made("ul");
        for (const [name, axis] of members) {
          const item = made("li");
          item.append(made("span", name, { className: "name" }), made("span", ` axis ${axis}`, { className: "soft" }));
          list.append(item);
        }
        part.append(made("h3", `${words} (${members.length})`), list);
        body.append(part);
      }
      for (const [here, there, words] of [[1, 0, "Computed from"], [0, 1, "Leads to"]]) {
        const numbers = [...new Set(data().drawing.lines.filter((line) => line[here] === number).map((line) => line[there]))];
        if (!numbers.length) continue;
        const part = made("div"), list = made("ul");
        for (const other of numbers) {
          const item = made("li"), link = made("button", data().groups[other].id, { className: "link name", type: "button" });
          link.addEventListener("click", () => { open(other, opener); show(other); });
          item.append(link);
          list.append(item);
        }
        part.append(made("h3", `${words} (${numbers.length})`), list);
        body.append(part);
      }
      panel.replaceChildren(head, body);
      panel.hidden = false;
      panel.scrollTop = 0;
      panel.dataset.group = number;
      mark(number);
      tip.hidden = true;
      panel.focus({ preventScroll: true });
    }
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

    // The drawing
    const map = find("map");
    if (!map) return;
    const bars = [...map.querySelectorAll(".bar")];
    const [, , wide, high] = map.getAttribute("viewBox").split(" ").map(Number);
    const view = { x: 0, y: 0, w: wide, h: high };
    const scale = () => Math.min(map.clientWidth / view.w, map.clientHeight / view.h) || 1;
    const look = () => {
      map.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
      map.classList.toggle("near", scale() > 0.62);
    };
    const zoom = (factor, x = view.x + view.w / 2, y = view.y + view.h / 2) => {
      const size = Math.max(120 / wide, Math.min(Math.max(1.25, 2 / scale()), view.w / wide / factor)) * wide / view.w;
      view.x = x - (x - view.x) * size;
      view.y = y - (y - view.y) * size;
      view.w *= size;
      view.h *= size;
      look();
    };
    const fit = () => {
      const more = Math.max(1, Math.min(map.clientWidth / wide, map.clientHeight / high) / 1.25); // small drawings are not blown up
      Object.assign(view, { x: wide * (1 - more) / 2, y: high * (1 - more) / 2, w: wide * more, h: high * more });
      look();
    };
    const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const centre = (bar) => { const box = bar.getBBox(); return [box.x + box.width / 2, box.y + box.height / 2]; };
    /** Bring a group into view, near enough to be read. */
    function show(number) {
      const [x, y] = centre(bars[number]);
      if (scale() < 0.62) zoom(0.9 / scale());
      if (Math.abs(x - view.x - view.w / 2) > view.w * 0.4 || Math.abs(y - view.y - view.h / 2) > view.h * 0.4) {
        view.x = x - view.w / 2;
        view.y = y - view.h / 2;
      }
      look();
    }
    function mark(number) {
      const lines = number === null ? [] : data().drawing.lines;
      bars.forEach((bar, index) => bar.classList.toggle("open", index === number));
      find("made").setAttribute("d", lines.filter((line) => line[1] === number).map((line) => line[3]).join(""));
      find("read").setAttribute("d", lines.filter((line) => line[0] === number).map((line) => line[3]).join(""));
    }
    const rove = (number) => {
      bars.forEach((bar) => { if (bar.tabIndex === 0) bar.tabIndex = -1; });
      bars[number].tabIndex = 0;
      show(number);
      bars[number].focus({ preventScroll: true });
    };
    find("zoom-in").addEventListener("click", () => zoom(1.5));
    find("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
    find("zoom-fit").addEventListener("click", fit);
    map.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      const { x, y } = place(event);
      zoom(Math.exp(-event.deltaY / 300), x, y);
    }, { passive: false });
    const fingers = new Map();
    let moved = 0;
    map.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); if (fingers.size === 1) moved = 0; });
    map.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const s = scale();
      const others = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
      moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
      if (others.length) {
        const apart = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY) || 1;
        const { x, y } = place(event);
        zoom(apart(event) / apart(before), x, y);
      } else if (moved > 4) {
        if (!map.hasPointerCapture(event.pointerId)) map.setPointerCapture(event.pointerId);
        map.classList.add("dragged");
        view.x -= (event.clientX - before.clientX) / s;
        view.y -= (event.clientY - before.clientY) / s;
        look();
      }
      fingers.set(event.pointerId, event);
    });
    const lift = (event) => { fingers.delete(event.pointerId); map.classList.remove("dragged"); };
    map.addEventListener("pointerup", lift);
    map.addEventListener("pointercancel", lift);
    map.addEventListener("pointerleave", (event) => { if (!map.hasPointerCapture(event.pointerId)) lift(event); });
    map.addEventListener("click", (event) => {
      const bar = event.target.closest(".bar");
      if (bar && moved <= 4) { rove(+bar.dataset.g); open(+bar.dataset.g, bar); }
    });
    /** The nearest bar in a direction: along it distance counts once, across it three times. */
    const beside = (number, across, down) => {
      const [x0, y0] = centre(bars[number]);
      let best = number, least = Infinity;
      bars.forEach((bar, index) => {
        const [x, y] = centre(bar), along = (x - x0) * across + (y - y0) * down, off = Math.abs((x - x0) * down) + Math.abs((y - y0) * across);
        const far = along + 3 * off;
        if (along > 1 && far < least) [best, least] = [index, far];
      });
      return best;
    };
    map.addEventListener("keydown", (event) => {
      const bar = event.target.closest(".bar"), number = bar ? +bar.dataset.g : 0;
      if (event.key === "ArrowRight") rove(Math.min(bars.length - 1, number + 1));
      else if (event.key === "ArrowLeft") rove(Math.max(0, number - 1));
      else if (event.key === "ArrowDown") rove(beside(number, 0, 1));
      else if (event.key === "ArrowUp") rove(beside(number, 0, -1));
      else if (event.key === "Home") rove(0);
      else if (event.key === "End") rove(bars.length - 1);
      else if (event.key === "Enter" || event.key === " ") open(number, bars[number]);
      else if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (event.key === "0") fit();
      else return;
      event.preventDefault();
    });
    const legible = 0.7;
    let begun = false;
    new ResizeObserver(([{ contentRect }]) => { // called once the drawing is on screen: the page opens without it
      if (!contentRect.width) return;
      if (begun) look();
      else if (contentRect.width >= 600 || scale() >= legible) fit();
      else { // on a phone the whole is too small to begin with: its start
        Object.assign(view, { x: 0, y: 0, w: contentRect.width / legible, h: contentRect.height / legible });
        look();
      }
      begun = true;
    }).observe(map);

    // The list
    const rows = [...find("rows").rows];
    find("rows").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) { open(+row.dataset.g, row.querySelector("button")); show(+row.dataset.g); }
    });
    find("find").addEventListener("input", (event) => {
      const text = event.target.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, number) => {
        const group = data().groups[number];
        row.hidden = Boolean(text) && !group.id.toLowerCase().includes(text) && !group.members.some((member) => member[0].toLowerCase().includes(text));
        shown += !row.hidden;
      });
      find("found").textContent = text ? `${shown} of ${rows.length}` : "";
    });
  });
})();

// A table with a tick box a row. `selected` lists the keys of the ticked rows, in row order.

function node(tag, parent, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function render({ model, el }) {
  el.classList.add("fapool-runs");
  const toggle = (key) => {
    const ticked = new Set(model.get("selected"));
    if (!ticked.delete(key)) ticked.add(key);
    model.set("selected", model.get("rows").map((row) => row.key).filter((known) => ticked.has(known)));
    model.save_changes();
  };
  const draw = () => {
    const columns = model.get("columns"), rows = model.get("rows"), ticked = model.get("selected");
    const figures = model.get("figures"), scrolled = el.scrollTop;
    el.replaceChildren();
    if (!rows.length) { node("p", el, "No runs yet: press Run."); return; }
    const table = node("table", el);
    const head = node("tr", node("thead", table));
    for (const column of ["", ...columns]) {
      node("th", head, column).classList.toggle("fapool-number", figures.includes(column));
    }
    const body = node("tbody", table);
    for (const { key, cells } of rows) {
      const line = node("tr", body);
      line.title = key;
      line.classList.toggle("fapool-ticked", ticked.includes(key));
      const tick = node("input", node("td", line));
      tick.type = "checkbox";
      tick.checked = ticked.includes(key);
      tick.setAttribute("aria-label", `compare ${key}`);
      cells.forEach((cell, i) => {
        node("td", line, cell).classList.toggle("fapool-number", figures.includes(columns[i]));
      });
      line.addEventListener("click", (event) => { event.preventDefault(); toggle(key); });
    }
    el.scrollTop = scrolled;
  };
  const events = ["change:rows", "change:columns", "change:selected"];
  for (const event of events) model.on(event, draw);
  draw();
  return () => { for (const event of events) model.off(event, draw); };
}

export default { render };

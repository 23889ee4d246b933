"use strict";
// The page of `hf-datasel browse`. It loads nothing, stores nothing, and text of rows reaches the page only as text
// nodes and attributes: no HTML, no code and no address is made of data.

const META = JSON.parse(document.getElementById("meta").textContent);
const ROW = 32; // height of a row of the table in pixels, as in the style sheet
const OVERSCAN = 8; // rows above and below the screen that exist as well
const CELL = 160; // characters of a text in the table
const TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };

// -- Small helpers ----------------------------------------------------------------------------------------------------
const find = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en-US");
const letter = (index) => String.fromCharCode(65 + index); // of a selection among several
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Create an element; children that are strings become text nodes, and properties that start with "on" listeners. */
function make(tag, properties = {}, ...children) {
  const svg = ["svg", "rect", "path"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Show control characters, such as null bytes, as their symbols; line breaks and tabs stay. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (char) =>
    String.fromCharCode(0x2400 + char.charCodeAt(0))).replace(/\u007f/g, "\u2421");
}

function format(value) {
  if (Number.isNaN(value)) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return count(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
}

// -- Data: gzip-compressed columns in base64 --------------------------------------------------------------------------
async function decode(blob) {
  const node = find(`blob-${blob}`);
  const binary = atob(node.textContent);
  node.remove(); // the text is not needed twice
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = binary.charCodeAt(index);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const column = async ({ blob, type }) => new TYPES[type](await decode(blob));

const SIZE = META.size;
const rows = META.count; // rows on this page; everywhere below a row is its position among them
const prompts = new Array(rows).fill("");
const responses = new Array(rows).fill("");
let numbers, usable, sizes; // row numbers, whether a row can be used, and size of each row

async function load() {
  [numbers, usable, sizes] = await Promise.all([column(META.rows), column(META.usable),
    SIZE ? column(SIZE.values) : null]);
  for (const selection of META.selections) {
    selection.rank = await column(selection.ranks);
    selection.code = await column(selection.codes);
    selection.weight = selection.weights && await column(selection.weights);
    selection.border = new Set(selection.borderline);
  }
  for (const score of META.numbers) [score.value, score.rank] = [await column(score.values), await column(score.ranks)];
  for (const group of META.groups) group.code = await column(group.codes);
}

async function loadTexts() {
  const decoder = new TextDecoder();
  for (const { blob, start } of META.texts) {
    const [first, second] = JSON.parse(decoder.decode(await decode(blob)));
    for (let index = 0; index < first.length; index++) {
      prompts[start + index] = first[index];
      responses[start + index] = second[index];
    }
    drawSoon();
    await new Promise((done) => setTimeout(done)); // let the page react between chunks
  }
}

// -- Filters and order ------------------------------------------------------------------------------------------------
const tests = new Map(); // name of a control -> function of a row that says whether it is shown
const ranges = new Map(); // position of a column of numbers -> {low, high}, null for no bound
let sort = { name: META.selections.length ? "selection:0" : "row", descending: false }; // selected rows first
let view = new Int32Array(0); // rows that are shown, in order
let active = 0; // position in `view` that the keyboard is at
let opened = -1; // row whose panel is open
let stale = false; // whether `update` is going to run

// As in Python: what float32 makes of a bound counts as the bound.
function atLeast(value, bound) {
  const single = Math.fround(bound);
  return value >= bound || (value === single && Math.abs(single - bound) <= 1e-7 * Math.abs(bound));
}

function inRange(value, { low, high }) {
  return !Number.isNaN(value) && (low === null || atLeast(value, low)) && (high === null || !atLeast(value, high));
}

function keptBy(bounds) {
  let [kept, size, all] = [0, 0, 0];
  for (let row = 0; row < rows; row++) {
    if (!usable[row]) continue;
    all += 1;
    let keeps = true;
    for (const [index, range] of bounds) keeps = keeps && inRange(META.numbers[index].value[row], range);
    if (!keeps) continue;
    kept += 1;
    if (sizes && !Number.isNaN(sizes[row])) size += sizes[row];
  }
  const unit = SIZE ? ` and ${count(size)} ${SIZE.unit}` : "";
  return `${count(kept)} of ${plural(all, "row")}${unit}`;
}

function setTest(name, control, test) {
  if (test) tests.set(name, test);
  else tests.delete(name);
  control.classList.toggle("on", Boolean(test));
  if (!stale) queueMicrotask(update); // once, if several controls change together
  stale = true;
}

const outcome = (selection, row) => selection.rank[row] >= 0 ? 0 : selection.code[row] < 0 ? 1 : 2;

function update() {
  stale = false;
  const all = [...tests.values()];
  const kept = new Int32Array(rows);
  let length = 0;
  for (let row = 0; row < rows; row++) {
    if (all.every((test) => test(row))) kept[length++] = row;
  }
  view = kept.subarray(0, length);
  if (sort.name !== "row" || sort.descending) {
    const keys = Array.from(view, COLUMNS.find(({ name }) => name === sort.name).key);
    const none = (value) => value === "" || value !== value; // rows without a value come last
    const sign = sort.descending ? -1 : 1;
    const order = Array.from(keys.keys()).sort((a, b) => {
      const [x, y] = [keys[a], keys[b]];
      return none(x) - none(y) || (x < y ? -sign : x > y ? sign : a - b);
    });
    view = Int32Array.from(order, (position) => view[position]);
  }
  active = 0;
  find("scroll").scrollTop = 0;
  showStatus();
  draw();
}

function showStatus() {
  let size = 0;
  const selected = META.selections.map(() => 0);
  for (const row of view) {
    if (sizes && !Number.isNaN(sizes[row])) size += sizes[row];
    META.selections.forEach((selection, index) => { selected[index] += selection.rank[row] >= 0; });
  }
  const parts = [`${count(view.length)} of ${plural(rows, "row")}`];
  if (SIZE) parts.push(`${count(size)} ${SIZE.unit} (${SIZE.source})`);
  const several = META.selections.length > 1;
  selected.forEach((number, index) => parts.push(`${count(number)} selected${several ? ` by ${letter(index)}` : ""}`));
  find("status").textContent = parts.join(" · ");
}

// -- Controls ---------------------------------------------------------------------------------------------------------
/** Add a list to choose one of; an option is [label, test], and an array of options in it a group with a label. */
function addChoice(name, label, options) {
  const choices = [];
  const option = ([text, test]) => make("option", { value: choices.push(test) - 1 }, text);
  const list = make("select", { onchange: () => setTest(name, control, choices[list.value]) },
    ...options.map((item) => Array.isArray(item[1])
      ? make("optgroup", { label: item[0] }, ...item[1].map(option)) : option(item)));
  const control = make("label", { class: "control" }, make("span", {}, label), list);
  find("controls").append(control);
}

function addSearch() {
  let timer;
  const search = () => {
    const text = input.value;
    const pattern = new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "iu");
    setTest("search", control, text && ((row) => pattern.test(prompts[row]) || pattern.test(responses[row])));
  };
  const input = make("input", { type: "search", spellcheck: "false", autocomplete: "off",
    oninput: () => { clearTimeout(timer); timer = setTimeout(search, 150); } });
  const control = make("label", { class: "control" }, make("span", {}, "Search text"), input);
  if (META.cut.length) {
    control.append(make("small", { class: "hint" }, `in the first ${count(META.limit)} characters of each text`));
  }
  find("controls").append(control);
}

function addSelections() {
  META.selections.forEach((selection, index) => {
    const totals = [0, 0, 0];
    const reasons = selection.reasons.map(() => 0);
    for (let row = 0; row < rows; row++) {
      totals[outcome(selection, row)] += 1;
      if (selection.rank[row] < 0 && selection.code[row] >= 0) reasons[selection.code[row]] += 1;
    }
    const is = (value) => (row) => outcome(selection, row) === value;
    const options = [["All rows", null], [`Selected (${count(totals[0])})`, is(0)]];
    if (selection.border.size) {
      options.push([`Borderline by ${selection.rankedBy} (${count(selection.border.size)})`, (row) => selection.border.has(row)]);
    }
    options.push([`Not selected (${count(totals[1])})`, is(1)], [`Excluded (${count(totals[2])})`, is(2)]);
    if (reasons.length) {
      options.push(["Excluded", selection.reasons.map((reason, code) =>
        [`${reason} (${count(reasons[code])})`, (row) => selection.rank[row] < 0 && selection.code[row] === code])]);
    }
    const several = META.selections.length > 1;
    addChoice(`selection:${index}`, several ? `${letter(index)}: ${selection.name}` : "Selection", options);
    for (const [reason, number] of Object.entries(selection.unresolved)) {
      find("controls").lastChild.append(make("small", { class: "hint" },
        `${plural(number, "row")} excluded as “${reason}” ${number === 1 ? "is" : "are"} among those not selected: the selection does not record which.`));
    }
  });
  if (META.selections.length !== 2) return;
  const [first, second] = META.selections;
  const sides = [["Only A selects", 1, 0], ["Only B selects", 0, 1], ["Both select", 1, 1], ["Neither selects", 0, 0]];
  addChoice("sides", "Compare A and B", [["All rows", null], ...sides.map(([label, a, b]) => {
    const test = (row) => (first.rank[row] >= 0) === Boolean(a) && (second.rank[row] >= 0) === Boolean(b);
    let number = 0;
    for (let row = 0; row < rows; row++) number += test(row);
    return [`${label} (${count(number)})`, test];
  })]);
}

function addGroups() {
  META.groups.forEach((group, index) => {
    const totals = group.labels.map(() => 0);
    const selected = META.selections.map(() => group.labels.map(() => 0));
    for (let row = 0; row < rows; row++) {
      const code = group.code[row];
      if (code < 0) continue;
      totals[code] += 1;
      META.selections.forEach(({ rank }, number) => { selected[number][code] += rank[row] >= 0; });
    }
    addChoice(`group:${index}`, group.name, [["All", null], ...group.labels.map((label, code) => {
      const parts = selected.map((counts, number) => (selected.length > 1 ? `${letter(number)} ` : "") + count(counts[code]));
      return [`${visible(label).slice(0, 80)} (${parts.join(", ")} of ${count(totals[code])})`, (row) => group.code[row] === code];
    })]);
  });
}

/** Draw the histogram: all rows, those of the first selection on top, and those of the second as a line. */
function chart(score) {
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${score.bins.length} 100`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Distribution of ${score.name}: ${format(score.low)} to ${format(score.high)}, all rows and selected rows` });
  const height = (number, most) => number ? Math.max(2, 98 * Math.sqrt(number / most)) : 0;
  const most = Math.max(1, ...score.bins);
  const bars = (counts, name) => counts.map((number, bin) => make("rect", { class: name, x: bin + 0.06, width: 0.88,
    y: 100 - height(number, most), height: height(number, most) }));
  svg.append(...bars(score.bins, "all"), ...bars(score.selected[0], "first"));
  if (score.selected.length === 2) {
    const steps = score.selected[1].map((number, bin) => `H${bin} V${100 - height(number, most)} H${bin + 1}`);
    svg.append(make("path", { class: "second", d: `M0 100 ${steps.join(" ")}` }));
  }
  return svg;
}

function addRange(score, index) {
  const name = `range:${index}`;
  const steps = Math.round((score.high - score.low) / score.step);
  const valueAt = (step) => Number((score.low + step * score.step).toFixed(score.decimals));
  const picture = chart(score);
  const kept = make("p", { class: "hint" });
  const slide = () => {
    const [first, last] = [Number(lowSlider.value), Number(highSlider.value)].sort((a, b) => a - b);
    low.value = first <= 0 ? "" : valueAt(first);
    high.value = last >= steps ? "" : valueAt(last);
    apply();
  };
  const typed = () => {
    const position = (input, end) => input.value === "" ? end : Math.round((Number(input.value) - score.low) / score.step);
    [lowSlider.value, highSlider.value] = [position(low, 0), position(high, steps)];
    apply();
  };
  const apply = () => {
    const bound = (input) => input.value === "" ? null : Number(input.value);
    const range = { low: bound(low), high: bound(high) };
    const isSet = range.low !== null || range.high !== null;
    const isEmpty = range.low !== null && range.high !== null && !(range.low < range.high);
    if (isSet && !isEmpty) ranges.set(index, range);
    else ranges.delete(index);
    kept.textContent = isEmpty ? "The lower bound has to be below the upper one." : isSet ? keptBy([[index, range]]) : "";
    picture.querySelectorAll("rect").forEach((bar) => {
      const start = score.low + Number(bar.getAttribute("x")) * (score.high - score.low) / score.bins.length;
      bar.classList.toggle("outside", isSet && !(start >= (range.low ?? -Infinity) - score.step && start < (range.high ?? Infinity)));
    });
    setTest(name, control, isSet && !isEmpty && ((row) => inRange(score.value[row], range)));
    showCode();
  };
  const slider = (label, value) => make("input", { type: "range", min: 0, max: steps, value, "aria-label": `${score.name}: ${label}`, oninput: slide });
  const box = (label) => make("input", { type: "number", step: "any", placeholder: "none", "aria-label": `${score.name}: ${label}`, onchange: typed });
  const [lowSlider, highSlider] = [slider("lowest value kept", 0), slider("values from here on dropped", steps)];
  const [low, high] = [box("lowest value kept"), box("values from here on dropped")];
  const control = make("fieldset", { class: "control" }, make("legend", {}, score.name), picture,
    make("div", { class: "slider" }, lowSlider, highSlider),
    make("div", { class: "bounds" }, low, "≤ x <", high), kept);
  find("controls").append(control);
}

// -- The filter as code -----------------------------------------------------------------------------------------------
/** Write a number so that Python and YAML read it as one: YAML takes 1e-7 for text, and 1.0e-7 for a number. */
function literal(number) {
  const text = String(number);
  return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
}

function bounds({ low, high }, join) {
  return [["low", low], ["high", high]].filter(([, value]) => value !== null).map(([name, value]) => `${name}${join}${literal(value)}`);
}

function snippets() {
  const used = [...ranges].map(([index, range]) => ({ ...META.numbers[index], range }));
  const known = used.filter(({ source }) => source);
  if (!known.length) return [];
  const imports = [...new Set(known.flatMap(({ source }) => source.imports))].sort();
  const filters = known.map(({ source, range }) => {
    const settings = [source.python, ...bounds(range, "="), ...(source.column ? [`column=${JSON.stringify(source.column)}`] : [])];
    return `    InRange(${settings.join(", ")}),`;
  });
  const python = [
    "from hf_datasel import select",
    ...(imports.length ? [`from hf_datasel.scores import ${imports.join(", ")}`] : []),
    "from hf_datasel.selectors import All, Chain, InRange",
    "", "selector = Chain([", ...filters, "], All())", "selection = select(dataset, selector)",
  ];
  const yaml = ["selector: chain", "selector_kwargs:", "  filters:", ...known.map(({ source, range }) => {
    const settings = [`by: ${source.yaml}`, ...bounds(range, ": "), ...(source.column ? [`column: ${JSON.stringify(source.column)}`] : [])];
    return `    - {filter: in_range, ${settings.join(", ")}}`;
  }), "  then: {selector: all}"];
  const result = [["Python", python], ["YAML", yaml]];
  if (known.every(({ source }) => source.inDataset)) {
    const more = usable.every(Boolean) ? "" : "# This also keeps rows that select cannot use, such as those without a response.";
    result.push(["Plain dataset", ["from hf_datasel.selection import Between", more, ...known.map(({ source, range }) =>
      `dataset = dataset.filter(Between(${[source.python, ...bounds(range, "=")].join(", ")}), batched=True)`)]]);
  }
  return result;
}

async function copy(button, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // not permitted, as in some notebooks: the text is selected, and the user copies it
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) { button.textContent = "Press Ctrl+C"; return; }
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function showCode() {
  const parts = snippets().map(([language, lines]) => {
    const code = make("pre", { tabindex: "0", "aria-label": `${language} code` }, `${lines.join("\n")}\n`);
    const button = make("button", { type: "button", "aria-label": `Copy ${language}`, onclick: () => copy(button, code) }, "Copy");
    return make("div", { class: "snippet", "data-language": language }, make("div", {}, language, button), code);
  });
  if (ranges.size) {
    parts.unshift(make("p", { class: "hint" }, `The ranges together keep ${keptBy([...ranges])}, of the rows that can be used.`));
    const unnamed = [...ranges.keys()].filter((index) => !META.numbers[index].source).map((index) => META.numbers[index].name);
    if (unnamed.length) parts.push(make("p", { class: "hint" }, `Not in the code, since their settings are not known: ${unnamed.join(", ")}.`));
  }
  find("code").replaceChildren(...parts);
}

// -- The table --------------------------------------------------------------------------------------------------------
// Each has a function of a row that returns the content of its cell, and one that returns what to sort by: a number or
// a text, NaN or "" for none.
const scoreColumn = (score, index) => ({
  name: `number:${index}`, title: score.name, number: true, key: (row) => score.value[row],
  width: Math.min(220, Math.max(score.isScore ? 128 : 96, 30 + 8.5 * score.name.length)),
  about: score.isScore ? `${score.name} and its rank, 1 for the highest` : score.name,
  cell: (row) => [format(score.value[row]), ...(score.isScore ? [rankText(score.rank[row])] : [])],
});
const textColumn = (name, title, texts) => ({
  name, title, width: 280, text: true, key: (row) => texts[row], cell: (row) => [visible(texts[row].slice(0, CELL))],
});
const scores = META.numbers.map(scoreColumn);
const COLUMNS = [
  { name: "row", title: "Row", width: 78, number: true, style: "row", key: (row) => row, cell: (row) => [count(numbers[row])] },
  ...META.selections.map((selection, index) => ({
    name: `selection:${index}`, width: 136, about: selection.name,
    title: META.selections.length > 1 ? letter(index) : "Selection",
    key: (row) => selection.rank[row] >= 0 ? selection.rank[row] : rows + selection.code[row] + 1,
    cell: (row) => [outcomeText(selection, row, index)],
  })),
  textColumn("prompt", "Prompt", prompts),
  ...scores.filter((score, index) => META.numbers[index].isScore),
  textColumn("response", "Response", responses),
  ...scores.filter((score, index) => !META.numbers[index].isScore),
  ...META.groups.map((group, index) => ({ name: `group:${index}`, title: group.name, width: 130,
    key: (row) => group.code[row] < 0 ? NaN : group.code[row],
    cell: (row) => group.code[row] < 0 ? [] : [visible(group.labels[group.code[row]])] })),
];

const rankText = (rank) => make("span", { class: "rank" }, rank ? `#${count(rank)}` : "");

function outcomeText(selection, row, index) {
  const kind = outcome(selection, row);
  if (kind === 0) return make("span", { class: index === 1 && META.selections.length === 2 ? "second" : "selected" }, `● rank ${count(selection.rank[row] + 1)}`);
  const reason = kind === 1 ? "not selected" : selection.reasons[selection.code[row]];
  return make("span", { class: "muted", title: kind === 1 ? null : selection.meanings[selection.code[row]] || reason }, reason);
}

function makeHead() {
  find("cols").replaceChildren(...COLUMNS.map(({ width }) => {
    const col = make("col");
    col.style.width = `${width}px`;
    return col;
  }));
  find("table").style.width = `${COLUMNS.reduce((sum, { width }) => sum + width, 0)}px`;
  find("table").setAttribute("aria-colcount", COLUMNS.length);
  find("head").replaceChildren(...COLUMNS.map(({ name, title, number, about }) => make("th",
    { scope: "col", class: number ? "number" : null, "data-name": name },
    make("button", { type: "button", title: about || title, onclick: () => sortBy(name, number && name !== "row") }, title))));
  markSort();
}

/** Sort by a column: numbers from the highest at first, everything else from the lowest, and then the other way. */
function sortBy(name, descending) {
  sort = { name, descending: sort.name === name ? !sort.descending : Boolean(descending) };
  markSort();
  update();
}

function markSort() {
  for (const head of find("head").children) {
    if (head.dataset.name === sort.name) head.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

const space = (height) => {
  const cell = make("td", { colspan: COLUMNS.length });
  cell.style.height = `${height}px`;
  return make("tr", { class: "space", "aria-hidden": "true" }, cell);
};

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function draw() {
  const scroll = find("scroll"), table = find("table");
  const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - OVERSCAN);
  const last = Math.min(view.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW) + OVERSCAN);
  const shown = [];
  for (let position = first; position < last; position++) {
    const row = view[position];
    const cells = COLUMNS.map(({ cell, number, text, style }) => make("td",
      { class: number ? `number ${style || ""}` : null, dir: text ? "auto" : null }, ...cell(row)));
    const names = [position === active && "active", row === opened && "open"].filter(Boolean).join(" ");
    shown.push(make("tr", { id: `row-${position}`, class: names || null, "aria-rowindex": position + 2,
      "aria-selected": String(row === opened), onclick: () => { active = position; open(row); } }, ...cells));
  }
  const empty = make("tr", { class: "space" }, make("td", { colspan: COLUMNS.length },
    make("p", { class: "empty" }, "No row passes the filters.")));
  find("body").replaceChildren(...(view.length ? [space(first * ROW), ...shown, space(Math.max(0, view.length - last) * ROW)] : [empty]));
  table.setAttribute("aria-rowcount", view.length + 1);
  if (active >= first && active < last) table.setAttribute("aria-activedescendant", `row-${active}`);
  else table.removeAttribute("aria-activedescendant");
}

function moveTo(position) {
  if (!view.length) return;
  active = Math.min(Math.max(position, 0), view.length - 1);
  const scroll = find("scroll"), top = active * ROW;
  const height = scroll.clientHeight - ROW; // below the header
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (top + ROW > scroll.scrollTop + height) scroll.scrollTop = top + ROW - height;
  if (opened >= 0) open(view[active]);
  else draw();
}

function onKey(event) {
  if (event.target !== find("table") || event.ctrlKey || event.metaKey || event.altKey) return;
  const page = Math.max(1, Math.floor(find("scroll").clientHeight / ROW) - 2);
  const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: view.length - 1 };
  if (event.key in moves) moveTo(moves[event.key]);
  else if (event.key === "Enter" && view.length) open(view[active]);
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
}

// -- One row ----------------------------------------------------------------------------------------------------------
function open(row) {
  opened = row;
  const panel = find("row");
  const [fullPrompt, fullResponse] = cutLengths.get(row) || [0, 0];
  const step = (by, label, symbol) => make("button", { type: "button", "aria-label": label, onclick: () => moveTo(active + by) }, symbol);
  const part = (title, text, full) => !text ? "" : make("section", {}, make("h3", {}, title),
    make("p", { class: "text", dir: "auto" }, visible(text)),
    full > META.limit ? make("p", { class: "hint" }, `Cut: the first ${count(META.limit)} of ${count(full)} characters.`) : "");
  const facts = META.selections.map((selection, index) => [selection.name, outcomeText(selection, row, index),
    selection.weight && !Number.isNaN(selection.weight[row]) ? `weight ${format(selection.weight[row])}` : ""]);
  for (const score of META.numbers) facts.push([score.name, format(score.value[row]) || "none", rankText(score.rank[row])]);
  for (const group of META.groups) facts.push([group.name, group.code[row] < 0 ? "none" : visible(group.labels[group.code[row]]), ""]);
  if (SIZE && !Number.isNaN(sizes[row])) facts.push([`${SIZE.unit} (${SIZE.source})`, count(sizes[row]), ""]);
  panel.replaceChildren(
    make("div", {}, make("h2", {}, `Row ${count(numbers[row])}`), step(-1, "Previous row", "↑"), step(1, "Next row", "↓"),
      make("button", { type: "button", "aria-label": "Close row", onclick: close }, "✕")),
    part("Prompt", prompts[row], fullPrompt), part("Response", responses[row], fullResponse),
    make("section", {}, make("h3", {}, "Outcome and scores"), make("table", {}, ...facts.map(([name, value, more]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value), make("td", { class: "number" }, more)))),
      META.details[row] ? make("p", { class: "hint" }, visible(META.details[row])) : ""));
  panel.hidden = false;
  panel.scrollTop = 0;
  draw();
}

function close() {
  find("row").hidden = true;
  opened = -1;
  find("table").focus({ preventScroll: true });
  draw();
}

// -- Start ------------------------------------------------------------------------------------------------------------
const cutLengths = new Map(META.cut.map(([row, prompt, response]) => [row, [prompt, response]]));

async function start() {
  if (matchMedia("(max-width: 48rem)").matches) find("filters").open = false;
  await load();
  makeHead();
  addSearch();
  addSelections();
  addGroups();
  if (META.numbers.length) {
    const lines = META.selections.length === 2 ? "blue those that A selects, the line those of B" : "blue the selected ones";
    find("controls").append(make("p", { class: "hint" }, `Histograms: grey are all rows, ${lines}; heights are square roots of the numbers.`));
  }
  META.numbers.forEach(addRange);
  const form = find("filters").querySelector("form");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    for (const input of form.querySelectorAll("select, input")) input.dispatchEvent(new Event(input.type === "number" ? "change" : "input"));
    for (const list of form.querySelectorAll("select")) list.dispatchEvent(new Event("change"));
  }));
  find("scroll").addEventListener("scroll", drawSoon, { passive: true });
  find("table").addEventListener("keydown", onKey);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && opened >= 0) close(); });
  addEventListener("resize", drawSoon);
  update();
  document.documentElement.dataset.state = "rows";
  await loadTexts();
  document.documentElement.dataset.state = "complete";
}

start().catch((error) => {
  find("status").textContent = `The page cannot be shown: ${error.message}`;
  document.documentElement.dataset.state = "failed";
});

// Which items alone may come back: an expression, and buttons for columns of few values.
import { html, useEffect, useRef, useState } from "./preact-htm.js";
import { Problem, Took, useAnswer } from "./parts.js";

const WAIT = 250;
const KEYWORDS = ["and", "or", "not", "in", "contains", "true", "false"];

const quoted = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));
const named = (name) =>
  /^[A-Za-z_]\w*$/.test(name) && !KEYWORDS.includes(name.toLowerCase()) ? name : `"${name.replaceAll('"', '""')}"`;

// What was chosen of one column, as the language of filters has it.
function condition({ name, list }, { values = [], low = "", high = "" } = {}) {
  const column = named(name);
  if (list && values.length) {
    const parts = values.map((value) => `${column} contains ${quoted(value)}`).join(" or ");
    return values.length > 1 ? `(${parts})` : parts;
  }
  if (values.length) return values.length > 1 ? `${column} in (${values.map(quoted).join(", ")})` : `${column} = ${quoted(values[0])}`;
  return [low && `${column} >= ${low}`, high && `${column} <= ${high}`].filter(Boolean).join(" and ");
}

// The place that a refusal names: where it begins, and what stands there; characters are counted as the service does.
function placeOf(problem, text) {
  const found = /^filter, character (\d+): /.exec(problem?.message ?? "");
  if (!found) return undefined;
  const signs = Array.from(text);
  const at = Math.min(Number(found[1]) - 1, signs.length);
  const after = signs.slice(at).join("");
  const word = /^(?:'[^']*'?|[\w.-]+|\S)/.exec(after)?.[0] ?? "";
  return { before: signs.slice(0, at).join(""), word, after: after.slice(word.length) };
}

export function Filter({ columns, apply }) {
  const [text, setText] = useState("");
  const [picked, setPicked] = useState({});
  const field = useRef();
  const parts = columns.map((column) => condition(column, picked[column.name])).filter(Boolean);
  const typed = text.trim();
  const whole = [typed && parts.length ? `(${typed})` : typed, ...parts].filter(Boolean).join(" and ");
  // what was typed is looked at by itself, so that a refusal names a place in it
  const checked = useAnswer("filter", typed ? { filter: text } : undefined, WAIT);
  const ready = !typed || (checked.answer && !checked.busy);
  const counted = useAnswer("filter", ready && parts.length ? { filter: whole } : undefined);
  const { answer, problem, busy } = parts.length && ready ? counted : checked;
  const fine = !whole || (answer && !busy);
  useEffect(() => {
    if (fine) apply(whole);
  }, [fine, whole]);

  const wrong = whole && problem && !busy ? problem : undefined;
  const place = wrong && wrong === checked.problem ? placeOf(wrong, text) : undefined;
  const clear = () => {
    setText("");
    setPicked({});
    field.current.focus();
  };
  const onKey = (event) => {
    if (event.key === "Escape" && text) setText("");
    else if (event.key === "Enter" && place) field.current.setSelectionRange(place.before.length, place.before.length + place.word.length);
    else return;
    event.preventDefault();
  };
  const offered = columns.filter(({ values, range }) => values || range);
  const others = columns.filter(({ values, range }) => !values && !range);
  return html`<section class="card filter" aria-labelledby="filter-head" aria-busy=${Boolean(whole && busy)}>
    <div class="head">
      <h2 id="filter-head">Filter</h2>
      ${(text || parts.length > 0) && html`<button type="button" id="unfilter" onClick=${clear}>Clear</button>`}
    </div>
    <input
      id="filter" ref=${field} value=${text} autocomplete="off" spellcheck=${false} maxlength="2000" aria-label="Items that alone may come back"
      aria-invalid=${Boolean(wrong)} aria-describedby="filter-says" placeholder="year >= 1990 and genre = 'Comedy'"
      onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey}
    />
    <div id="filter-says" aria-live="polite">
      ${place && html`<p class="place"><code>${place.before}<mark>${place.word || "\u00a0"}</mark>${place.after}</code></p>`}
      ${wrong
        ? html`<${Problem} problem=${wrong} /><p class="quiet">The lists stay as they were.</p>`
        : html`<p class="quiet">${!whole ? "All items may come back." : fine ? `${answer.passing.toLocaleString("en")} of ${answer.items.toLocaleString("en")} items pass.` : "…"}</p>`}
    </div>
    ${parts.length > 0 && !wrong && html`<p class="asked"><code>${whole}</code></p>`}
    <details class="columns">
      <summary>By column</summary>
      ${offered.map((column) => html`<${Column} key=${column.name} column=${column} chosen=${picked[column.name] ?? {}} choose=${(one) => setPicked((old) => ({ ...old, [column.name]: one }))} />`)}
      ${others.length > 0 && html`<p class="quiet">In an expression, too: ${others.map(({ name }) => name).join(", ")}.</p>`}
    </details>
    ${whole && fine && html`<${Took} answer=${answer} />`}
  </section>`;
}

function Column({ column, chosen, choose }) {
  const { name, values, range } = column;
  const taken = chosen.values ?? [];
  const turn = (value) => choose({ values: taken.includes(value) ? taken.filter((one) => one !== value) : [...taken, value] });
  const bound = (end, words) => html`<label>${words} <input
      type="number" step="any" value=${chosen[end] ?? ""} placeholder=${range[end === "low" ? 0 : 1]} aria-label=${`${name}, ${words}`}
      onInput=${(event) => choose({ ...chosen, [end]: event.target.value })}
    /></label>`;
  return html`<fieldset class="column">
    <legend>${name}</legend>
    <div class="choices">
      ${values
        ? values.map((value) => html`<button type="button" key=${value} aria-pressed=${taken.includes(value)} onClick=${() => turn(value)}>${String(value)}</button>`)
        : html`${bound("low", "from")}${bound("high", "to")}`}
    </div>
  </fieldset>`;
}

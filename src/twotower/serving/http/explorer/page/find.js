// Finding items by their titles, by pointer or keyboard.
import { html, useRef, useState } from "./preact-htm.js";
import { Named, Notices, Problem, Took, useAnswer } from "./parts.js";

const MOST = 8;

export function Find({ history, add }) {
  const [text, setText] = useState("");
  const field = useRef();
  const hits = useRef();
  const { answer, problem, busy } = useAnswer("search", { text, k: MOST }, text ? 120 : 0);
  const taken = new Set(history.map((item) => item.id));

  const onKey = (event) => {
    const buttons = [...hits.current.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "ArrowDown") buttons[Math.min(at + 1, buttons.length - 1)]?.focus();
    else if (event.key === "ArrowUp") (buttons[at - 1] ?? field.current).focus();
    else if (event.key === "Escape") {
      setText("");
      field.current.focus();
    } else if (event.key === "Enter" && at < 0) {
      // what was found for fewer letters is not what is meant
      if (!busy && answer?.items.length) add(answer.items[0]);
    }
    else return;
    event.preventDefault();
  };

  return html`<section class="card find" aria-labelledby="find-head" onKeyDown=${onKey}>
    <h2 id="find-head">Find items</h2>
    <input
      id="find" ref=${field} type="search" value=${text} autocomplete="off" maxlength="200"
      aria-label="Letters of a title, or an id" placeholder="a title or id"
      onInput=${(event) => setText(event.target.value)}
    />
    <p class="quiet" aria-live="polite">
      ${!answer ? "…" : !answer.items.length ? "Nothing has these letters." : text ? "Click to add." : "Most events first; click to add."}
    </p>
    ${problem && html`<${Problem} problem=${problem} />`}
    <ul class="hits" ref=${hits}>
      ${answer?.items.map(
        (item) => html`<li key=${item.id}>
          <button type="button" class="row" aria-pressed=${taken.has(item.id)} onClick=${() => add(item)}>
            <span class="text"><${Named} item=${item} /></span><span class="sign-add" aria-hidden="true">${taken.has(item.id) ? "✓" : "+"}</span>
          </button>
        </li>`,
      )}
    </ul>
    ${answer && html`<${Notices} answer=${answer} /><${Took} answer=${answer} />`}
  </section>`;
}

// Who asks: a history of clicks, a known user, or both.
import { html, useState } from "./preact-htm.js";
import { ask } from "./ask.js";
import { Named, Problem, Took } from "./parts.js";

const SEEN = 20;

export function History({ history, user, remove, clear, setUser }) {
  const known = user?.id;
  return html`<section class="card history" aria-labelledby="history-head">
    <div class="head">
      <h2 id="history-head">History</h2>
      ${(history.length > 0 || user) && html`<button type="button" id="clear" onClick=${clear}>Clear</button>`}
    </div>
    ${!history.length && html`<p class="quiet">${known ? "Nothing since what is stored. Add items that came after." : "Empty. Add items, oldest first, or take a known user."}</p>`}
    <ol class="taken" aria-label="Items of the history, oldest first">
      ${history.map(
        (item, at) => html`<li key=${at}>
          <span class="text"><${Named} item=${item} /></span>
          <button type="button" class="slim" aria-label=${`Remove ${item.title}`} onClick=${() => remove(item.id)}>×</button>
        </li>`,
      )}
    </ol>
    <${User} user=${user} setUser=${setUser} />
  </section>`;
}

function User({ user, setUser }) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState();
  const take = async (event) => {
    event.preventDefault();
    const id = event.target.elements.user.value.trim();
    if (!id) return;
    try {
      setUser({ id, ...(await ask("seen", { user: id, k: SEEN })) });
      setProblem();
      setText("");
    } catch (refused) {
      setProblem(refused);
    }
  };
  return html`
    <form class="user" onSubmit=${take}>
      <label>Known user <input id="user" value=${text} autocomplete="off" maxlength="256" placeholder="an id" onInput=${(event) => setText(event.target.value)} /></label>
      <button type="submit">Take</button>
    </form>
    ${problem && html`<${Problem} problem=${problem} />`}
    ${user && html`<div class="known">
      <div class="head"><h3>User ${user.id}</h3>
        <button type="button" class="slim" aria-label=${`Leave out user ${user.id}`} onClick=${() => setUser()}>×</button></div>
      <details><summary>${user.seen} items seen${user.seen > user.items.length ? `, the latest ${user.items.length}` : ""}</summary>
        <ol>${user.items.map((item) => html`<li key=${item.id}><${Named} item=${item} /></li>`)}</ol></details>
      <${Took} answer=${user} />
    </div>`}`;
}

// The page: what is asked, and the panels that show the answers.
import { html, render, useEffect, useState } from "./preact-htm.js";
import { About } from "./about.js";
import { ask, setToken } from "./ask.js";
import { Filter } from "./filter.js";
import { Find } from "./find.js";
import { History } from "./history.js";
import { Lists } from "./lists.js";
import { Picture } from "./map.js";
import { Problem, useAnswer } from "./parts.js";
import { Why } from "./why.js";

const K = 10;

function Explorer({ bundles, most }) {
  const [history, setHistory] = useState([]);
  const [user, setUser] = useState();
  const [chosen, choose] = useState();
  const asker = history.length || user ? { ...(user && { user: user.id }), ...(history.length && { history: history.map((item) => item.id) }) } : undefined;
  const [filter, setFilter] = useState("");
  const asked = { ...asker, ...(filter && { filter }), k: K };
  const found = {
    first: useAnswer("recommend", asker && { ...asked, bundle: "first" }),
    second: useAnswer("recommend", asker && bundles.second && { ...asked, bundle: "second" }),
  };
  if (!bundles.second) delete found.second;

  const add = (item) =>
    setHistory((old) => (old.length >= most.history || old.some(({ id }) => id === item.id) ? old : [...old, item]));
  const remove = (id) => {
    setHistory((old) => old.filter((item) => item.id !== id));
    keepFocus();
  };
  const clear = () => {
    setHistory([]);
    setUser();
    keepFocus();
  };
  const close = () => {
    document.querySelector(".found .chosen .row")?.focus();
    choose();
  };
  useEffect(() => {
    const onKey = (event) => event.key === "Escape" && !event.defaultPrevented && close();
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  // an explanation belongs to a list: it goes when the item leaves it
  const still = chosen && found[chosen.which]?.answer?.items.some((item) => item.id === chosen.item.id) ? chosen : undefined;

  return html`
    <${About} bundles=${bundles} />
    <div class="desk">
      <div class="side">
        <${Find} history=${history} add=${add} />
        <${History} ...${{ history, user, remove, clear, setUser }} />
        <${Filter} columns=${bundles.first.columns} apply=${setFilter} />
      </div>
      <div class="stage">
        <${Lists} ...${{ bundles, found, history, chosen: still, choose, add }} />
        <div class="below">
          <${Why} asker=${asker} chosen=${still} close=${close} />
          <${Picture} ...${{ bundles, asker, found, history, add }} chosen=${still} />
        </div>
      </div>
    </div>`;
}

// The keyboard's focus goes to the search where the button that had it is gone.
function keepFocus() {
  requestAnimationFrame(() => document.activeElement === document.body && document.getElementById("find").focus());
}

function Token({ retry, problem }) {
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    setToken(event.target.elements.token.value.trim());
    retry();
  };
  return html`<form class="card token" onSubmit=${send}>
    <h1>A token is wanted</h1>
    <p class="quiet">The service was started with one. It is kept for this tab alone.</p>
    <label>Token <input id="token" type="password" value=${text} autocomplete="off" onInput=${(event) => setText(event.target.value)} /></label>
    <button type="submit">Open</button>
    ${problem && html`<${Problem} problem=${problem} />`}
  </form>`;
}

function Page() {
  const [state, setState] = useState({});
  const [tries, setTries] = useState(0);
  useEffect(() => {
    ask("about").then((about) => setState({ about }), (problem) => setState({ problem }));
  }, [tries]);
  if (state.about) return html`<${Explorer} ...${state.about} />`;
  if (state.problem?.status === 401)
    return html`<${Token} retry=${() => setTries(tries + 1)} problem=${tries ? { message: "This is not its token." } : undefined} />`;
  return state.problem ? html`<${Problem} problem=${state.problem} />` : html`<p class="quiet">…</p>`;
}

const app = document.getElementById("app");
app.replaceChildren();
render(html`<${Page} />`, app);

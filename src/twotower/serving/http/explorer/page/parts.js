// Small parts that several panels show.
import { html, useEffect, useState } from "./preact-htm.js";
import { ask } from "./ask.js";

export const LETTER = { first: "A", second: "B" };

export const score = (value) =>
  value === null ? "none" : Math.abs(value) >= 1000 ? value.toPrecision(5) : value.toFixed(3);

const time = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));

// How long an answer took: in the model, and from the question to the page.
export const Took = ({ answer }) =>
  html`<p class="took">${time(answer.ms)} ms in the service, ${time(answer.took)} ms to this page</p>`;

export const Notices = ({ answer }) =>
  answer.notices?.length ? html`<ul class="notices">${answer.notices.map((text) => html`<li>${text}</li>`)}</ul>` : null;

export const Problem = ({ problem }) => html`<p class="problem" role="alert">${problem.message}</p>`;

export const Badge = ({ which }) => html`<span class="badge ${which}" aria-hidden="true">${LETTER[which]}</span>`;

// One item's name, and below it a few words more.
export const Named = ({ item }) =>
  html`<span class="name">${item.title}</span>${item.more && html`<span class="more">${item.more}</span>`}`;

// The answer to a question that changes: {answer, problem, busy}. Until the next answer is there the last one stays, and
// `busy` says so; a question that is no longer asked is given up.
export function useAnswer(name, body, delay = 0) {
  const [state, setState] = useState({});
  const key = body && JSON.stringify(body);
  useEffect(() => {
    if (!key) return setState({});
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const answer = await ask(name, JSON.parse(key), stop.signal);
        if (!stop.signal.aborted) setState({ answer, key });
      } catch (problem) {
        if (!stop.signal.aborted) setState({ problem, key });
      }
    }, delay);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [name, key]);
  return key ? { ...state, busy: state.key !== key } : {};
}

// What each bundle recommends, side by side.
import { html } from "./preact-htm.js";
import { Badge, LETTER, Named, Notices, Problem, Took, score } from "./parts.js";

export function Lists({ bundles, found, history, chosen, choose, add }) {
  return html`<div class="lists" data-number=${Object.keys(bundles).length}>
    ${Object.entries(bundles).map(
      ([which, bundle]) => html`<${List}
        key=${which} ...${{ which, bundle, history, chosen, choose, add }} state=${found[which]}
        other=${Object.entries(found).find(([name]) => name !== which)}
      />`,
    )}
  </div>`;
}

function List({ which, bundle, state, other, history, chosen, choose, add }) {
  const { answer, problem, busy } = state ?? {};
  const scores = (answer?.items ?? []).map((item) => item.score).filter((value) => value !== null);
  const [low, high] = [Math.min(0, ...scores), Math.max(...scores)];
  const elsewhere = new Map((other?.[1].answer?.items ?? []).map((item, at) => [item.id, at + 1]));
  const taken = new Set(history.map((item) => item.id));
  return html`<section class="card list ${which}" aria-labelledby=${`${which}-head`} aria-busy=${Boolean(busy)}>
    <h2 id=${`${which}-head`}><${Badge} which=${which} /> ${bundle.model}${bundle.then && ` then ${bundle.then}`}</h2>
    <p class="quiet">${bundle.folder}${answer && ` · answered by ${answer.answered_by.replace("+", " and ")}`}</p>
    ${problem && html`<${Problem} problem=${problem} />`}
    ${!answer && !problem && html`<p class="empty">${busy ? "…" : "Recommendations come here once there is a history or a user."}</p>`}
    ${answer && !answer.items.length && html`<p class="empty">Nothing is left to recommend.</p>`}
    <ol class="found">
      ${answer?.items.map((item, at) => {
        const is = chosen?.which === which && chosen.item.id === item.id;
        const share = item.score === null || high === low ? 0 : (item.score - low) / (high - low);
        // by rank: when an item leaves the list, the keyboard's focus stays where it is
        return html`<li key=${at} class=${is ? "chosen" : ""}>
          <span class="rank">${at + 1}</span>
          <button type="button" class="row" aria-pressed=${is} title="Why?" onClick=${() => choose(is ? undefined : { which, item })}>
            <span class="text"><${Named} item=${item} /></span>
            ${elsewhere.has(item.id) && html`<span class="also" title=${`also in the other list, at ${elsewhere.get(item.id)}`}>${LETTER[other[0]]} ${elsewhere.get(item.id)}</span>`}
            <span class="score">${score(item.score)}<span class="line" style=${{ "--share": share }}></span></span>
          </button>
          <button type="button" class="slim" aria-label=${`Add ${item.title} to the history`} aria-disabled=${taken.has(item.id)} onClick=${() => add(item)}>+</button>
        </li>`;
      })}
    </ol>
    ${answer && html`<${Notices} answer=${answer} /><${Took} answer=${answer} />`}
  </section>`;
}

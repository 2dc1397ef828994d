// Why an item was recommended: which items of the history carry its score.
import { html, useEffect, useRef } from "./preact-htm.js";
import { Badge, Notices, Problem, Took, score, useAnswer } from "./parts.js";

export function Why({ asker, chosen, close }) {
  const panel = useRef();
  useEffect(() => {
    if (chosen) panel.current.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  const body = asker && chosen && { ...asker, bundle: chosen.which, item: chosen.item.id };
  const { answer, problem, busy } = useAnswer("why", body);
  const here = busy ? undefined : answer;
  return html`<section class="card why" ref=${panel} aria-labelledby="why-head" aria-live="polite" aria-busy=${Boolean(busy)}>
    <div class="head">
      <h2 id="why-head">${chosen ? html`<${Badge} which=${chosen.which} /> Why “${chosen.item.title}”?` : "Why?"}</h2>
      ${chosen && html`<button type="button" id="close" class="slim" aria-label="Close" onClick=${close}>×</button>`}
    </div>
    ${!chosen && html`<p class="quiet">Click an item of a list to see which items of the history carry its score.</p>`}
    ${problem && html`<${Problem} problem=${problem} />`}
    ${here && html`<${Causes} answer=${here} />`}
  </section>`;
}

function Causes({ answer }) {
  const largest = Math.max(...answer.causes.map((cause) => Math.abs(cause.share ?? 0)), 1e-12);
  const sum = answer.causes.reduce((total, cause) => total + (cause.share ?? 0), 0);
  return html`
    <p>Score <strong>${score(answer.score)}</strong> by ${answer.model}. ${answer.exact
      ? "The shares are exact and add up to it."
      : `A share is how far the score falls without that item; together ${score(sum)}. The rest is what the model knows beside the history, and what items do together.`}</p>
    ${!answer.causes.length && html`<p class="empty">No item of the history changes this score.</p>`}
    <ol class="causes">
      ${answer.causes.map(
        (cause) => html`<li key=${cause.id} class=${cause.share < 0 ? "against" : "for"}>
          <span class="text"><span class="name">${cause.title}</span></span>
          <span class="share">${cause.share > 0 ? "+" : ""}${score(cause.share)}</span>
          <span class="line" style=${{ "--share": Math.abs(cause.share ?? 0) / largest }}></span>
        </li>`,
      )}
    </ol>
    ${answer.left_out > 0 && html`<p class="quiet">${answer.left_out} items with smaller shares are not shown.</p>`}
    <${Notices} answer=${answer} /><${Took} answer=${answer} />`;
}

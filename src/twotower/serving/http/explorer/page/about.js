// What each bundle is, how it did, and what its own diagnosis says of its item vectors.
import { html } from "./preact-htm.js";
import { Badge } from "./parts.js";

const SIGN = { healthy: "✓", suspect: "?", collapsed: "!" };

export const About = ({ bundles }) => html`<div class="about" data-number=${Object.keys(bundles).length}>
  ${Object.entries(bundles).map(([which, bundle]) => html`<${Card} key=${which} ...${{ which, bundle }} />`)}
</div>`;

function Card({ which, bundle }) {
  const { verdict, reasons, metrics } = bundle;
  return html`<section class="card bundle ${verdict ?? ""}" aria-label=${`Bundle ${bundle.folder}`}>
    <h2><${Badge} which=${which} /> ${bundle.folder}</h2>
    <p class="quiet">${bundle.model}${bundle.then && ` then ${bundle.then}`} on ${bundle.data} · ${bundle.items.toLocaleString("en")} items · ${bundle.index} · ${bundle.created.slice(0, 10).replaceAll("-", "\u2011")} · ${bundle.bundle}</p>
    <p class="says">
      ${verdict ? html`<span class="sign" aria-hidden="true">${SIGN[verdict] ?? "?"}</span> <strong>${verdict}</strong>` : html`<span class="quiet">no diagnosis</span>`}
      ${metrics.map(({ name, value, interval }) => html`<span class="metric"><span class="quiet">${name}</span> ${value.toFixed(3)}${interval && html` <span class="quiet">${interval.map((end) => end.toFixed(3)).join("–")}</span>`}</span>`)}
    </p>
    ${reasons.length > 0 && html`<details><summary>${reasons.length === 1 ? "One reason" : `${reasons.length} reasons`}</summary><ul>${reasons.map((text) => html`<li>${text}</li>`)}</ul></details>`}
  </section>`;
}
